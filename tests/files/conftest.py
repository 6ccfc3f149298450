"""Writing and reading of a file, or of a folder with one file."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rltr.system.files import (
    atomic_folder,
    atomic_write,
)

Writer = Callable[[Path], AbstractContextManager[Path]]


def write(writer: Writer, path: Path, text: str) -> None:
    """Write a file, or a folder with one file, that says ``text``."""
    with writer(path) as temporary:
        (temporary if writer is atomic_write else temporary / "file").write_text(text)


def read(path: Path) -> str:
    return (path if path.is_file() else path / "file").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


both = pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
