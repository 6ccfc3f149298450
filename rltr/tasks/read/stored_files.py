"""Stored files: on disk, or as bytes in a table."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rltr.tasks.examples.base import digest, digest_files

StoredFile: TypeAlias = Path | bytes | Mapping[str, Any] | None
"""A file, or what a table has in its place: its content, alone or as ``bytes`` beside its ``path``; None for none."""


END = 2**16
"""Bytes at either end of a file that its digest covers."""


def open_stored(file: StoredFile) -> Path | io.BytesIO:
    """What a decoder reads a stored file from.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(file, Path | bytes):
        return file if isinstance(file, Path) else io.BytesIO(file)
    content, path = (file or {}).get("bytes"), (file or {}).get("path")
    if content is None and path is None:
        raise ValueError("there is none")
    return io.BytesIO(content) if content is not None else Path(str(path))


def digest_stored(files: Sequence[StoredFile]) -> str | None:
    """A digest of paths, sizes and times of change; None if not all are on disk."""
    paths = [file for file in files if isinstance(file, Path)]
    return digest_files(paths) if len(paths) == len(files) else None


def digest_contents(files: Sequence[StoredFile]) -> str:
    """A digest of contents, wherever the files lie: of each the size, and its first and last 64 KiB.

    Reading all of a large data set would take as long as a short training; a file of the same size that differs only
    between its ends is taken for the same.
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
    except (OSError, ValueError) as error:  # who reads it for the model says what is wrong, or leaves it out
        return [type(error).__name__]
