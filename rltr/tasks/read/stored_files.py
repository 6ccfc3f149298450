"""Files that are stored on disk, or as bytes in a table."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rltr.tasks.examples.base import digest, digest_files

StoredFile: TypeAlias = Path | bytes | Mapping[str, Any] | None
"""A path, the content, or a mapping with ``bytes`` or ``path``, as ``datasets`` stores files; None if missing."""


END = 2**16
"""Number of bytes at both ends of a file that its digest covers."""


def open_stored(file: StoredFile) -> Path | io.BytesIO:
    """The path or stream that a decoder can read a stored file from.

    Raises:
        ValueError: if the file is missing.
    """
    if isinstance(file, Path | bytes):
        return file if isinstance(file, Path) else io.BytesIO(file)
    content, path = (file or {}).get("bytes"), (file or {}).get("path")
    if content is None and path is None:
        raise ValueError("there is none")
    return io.BytesIO(content) if content is not None else Path(str(path))


def digest_stored(files: Sequence[StoredFile]) -> str | None:
    """A digest of paths, sizes and modification times; None if not all files are on disk."""
    paths = [file for file in files if isinstance(file, Path)]
    return digest_files(paths) if len(paths) == len(files) else None


def digest_contents(files: Sequence[StoredFile]) -> str:
    """A digest of the contents of files, independent of their paths: size, first and last 64 KiB of each.

    Reading a large data set in full would take as long as a short training. Two files of the same size that differ only
    in their middle have the same digest.
    """
    return digest(part for file in files for part in _ends(file))


def _ends(file: StoredFile) -> list[str | bytes]:
    try:
        opened = open_stored(file)
        with opened if isinstance(opened, io.BytesIO) else opened.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            first = stream.read(END)
            stream.seek(max(size - END, len(first)))
            return [str(size), first, stream.read(END)]
    except (OSError, ValueError) as error:  # the code that reads it for the model reports the error
        return [type(error).__name__]
