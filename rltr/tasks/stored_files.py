"""Files as they are stored: on disk, or as bytes in a table."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rltr.tasks.examples import digest_files

StoredFile: TypeAlias = Path | Mapping[str, Any] | None
"""A file, or what a table has in its place: its ``bytes``, or else its ``path``; None where there is none."""


def open_stored(file: StoredFile) -> Path | io.BytesIO:
    """What a decoder reads a stored file from.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(file, Path):
        return file
    content, path = (file or {}).get("bytes"), (file or {}).get("path")
    if content is None and path is None:
        raise ValueError("there is none")
    return io.BytesIO(content) if content is not None else Path(str(path))


def digest_stored(files: Sequence[StoredFile]) -> str | None:
    """A digest of paths, sizes and times of change; None if not all are on disk."""
    paths = [file for file in files if isinstance(file, Path)]
    return digest_files(paths) if len(paths) == len(files) else None
