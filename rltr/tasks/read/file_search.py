"""Find the data files of a folder, and count what is left out and why."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rltr.errors import RltrError

SPECIAL = {
    "__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db",
    "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
"""Files and folders that operating systems and programs create (copies, previews), in lower case."""
SHOWN = 8
"""Largest number of suffixes or places that a message lists."""
log = logging.getLogger(__name__)


@dataclass
class Found:
    """The files of a folder, and what else is there.

    Attributes:
        files: the data files, sorted.
        hidden: number of data files in each hidden folder, or with a hidden name.
        others: number of files by other suffix.
        broken: broken links.
        outside: data files outside of all class folders.
    """

    files: list[Path] = field(default_factory=list)
    hidden: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    broken: list[Path] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or created by an operating system or editor."""
    return name.startswith((".", "~$")) or name.casefold() in SPECIAL


def find_files(folder: Path, suffixes: Collection[str]) -> Found:
    """Find all files with one of ``suffixes`` (lower case; the files' case is ignored) in a folder and its subfolders.

    Links are followed.

    Raises:
        RltrError: if a folder cannot be read.
    """
    found = Found()
    for path in _walk(folder, suffixes, found, frozenset()):
        if path.suffix.lower() not in suffixes:
            found.others[path.suffix.lower() or "no suffix"] += 1
        else:
            found.files.append(path)
    found.files.sort()
    return found


def entries(folder: Path) -> list[Path]:
    """The files and folders in a folder that are not hidden, sorted.

    Raises:
        RltrError: if it cannot be read.
    """
    return [path for path in _list(folder) if not is_hidden(path.name)]


def warn_left_out(data: Path, parts: Iterable[Found], what: str) -> None:
    """Warn in one line about everything that is left out of a data set.

    Args:
        data: the folder.
        parts: the search results of its parts.
        what: the kind of files, for the message: ``images`` or ``sounds``.
    """
    parts = list(parts)
    hidden: Counter[str] = sum((part.hidden for part in parts), Counter())
    others: Counter[str] = sum((part.others for part in parts), Counter())
    broken, outside = (
        [path for part in parts for path in part.broken],
        [path for part in parts for path in part.outside],
    )
    said = [
        f"{hidden.total()} hidden copies of {what} ({_counted(hidden)})" if hidden else "",
        f"{others.total()} files with other suffixes ({_counted(others)})" if others else "",
        f"{len(broken)} broken links (the first: {broken[0]})" if broken else "",
        f"{len(outside)} {what} outside of all class folders (the first: {outside[0]})" if outside else "",
    ]
    if any(said):
        count = sum(len(part.files) for part in parts)
        log.warning("%s: %d %s are read; left out: %s", data, count, what, ", ".join(filter(None, said)))


def list_others(found: Found) -> str:
    """The other files of a folder, for a message; empty if there are none."""
    return f"; there are {_counted(found.others)}" if found.others else ""


def _walk(folder: Path, suffixes: Collection[str], found: Found, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Every file that is not hidden; hidden files and broken links are counted in ``found``."""
    stat = folder.stat()
    here = above | {(stat.st_dev, stat.st_ino)}
    if here == above:  # a link to one of its parent folders
        return
    for path in _list(folder):
        if is_hidden(path.name):
            inside = _list(path) if path.is_dir() else [path]
            copies = sum(own.suffix.lower() in suffixes and own.is_file() for own in inside)
            if copies:
                found.hidden[path.name if path.is_dir() else f"{path.name[:2]}…"] += copies
        elif path.is_dir():
            yield from _walk(path, suffixes, found, here)
        elif path.is_file():
            yield path
        elif path.is_symlink():
            found.broken.append(path)


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError as error:
        raise RltrError(f"the folder {folder} cannot be read: {error.strerror}") from error


def _counted(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in counts.most_common(SHOWN))
    return shown + (", …" if len(counts) > SHOWN else "")
