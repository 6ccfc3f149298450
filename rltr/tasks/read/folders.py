"""Folders of images or sounds: one subfolder per class, or, without labels, any folder.

``datasets`` reads such folders as well, but silently drops files if a class has the name of a split, among other
things; ``docs/internals/tasks.md`` has the list.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from rltr.errors import RltrError
from rltr.recipe.data_options import DataOptions
from rltr.tasks.goals.numbering import FOLDERS
from rltr.tasks.read.file_search import Found, entries, find_files, list_others, warn_left_out
from rltr.tasks.read.splits import WHOLE, find_splits, is_split
from rltr.tasks.read.tables import Table


def open_folder(
    data: Path, suffixes: Collection[str], what: str, column: str, options: DataOptions, or_else: str
) -> dict[str, Table]:
    """List the files of a folder by split; without split folders, all files are in the split ``WHOLE``.

    The layout is ``data/CLASS/…``, or ``data/train/CLASS/…``, ``data/test/CLASS/…`` and optionally
    ``data/validation/CLASS/…`` (or ``val``). Class folders may have subfolders. Without labels, they are not needed.

    Args:
        data: the folder.
        suffixes: suffixes of the files to read, in lower case; a warning lists the others.
        what: the kind of files, for messages: ``images`` or ``sounds``.
        column: name of the column of files; the column of labels is ``options.label_column``.
        options: whether there are labels, and the names of the splits.
        or_else: advice that is appended to the error message if there are no class folders.

    Raises:
        RltrError: if the folder has no such files, or a class is empty.
    """
    by_class = options.labels != "none"
    if not data.is_dir():
        needed = f"a folder with one subfolder of {what} per class" if by_class else f"a folder of {what}"
        raise RltrError(f"{data} is not a folder; this model needs {needed}")
    roots = split_folders(data, options)
    found = {
        split: _by_class(root, suffixes, what, or_else) if by_class else {"": _files(root, suffixes, what)}
        for split, root in roots.items()
    }
    warn_left_out(data, (part for classes in found.values() for part in classes.values()), what)
    tables = {}
    for split, classes in found.items():
        files = [path for part in classes.values() for path in part.files]
        labels = [name for name, part in classes.items() for _ in part.files]
        columns: dict[str, list[Any]] = {column: files, **({options.label_column: labels} if by_class else {})}
        names = [path.relative_to(data).as_posix() for path in files]
        tables[split] = Table(str(data), columns, list(map(str, files)), names, ways=FOLDERS)
    return tables


def split_folders(data: Path, options: DataOptions) -> dict[str, Path]:
    """The folder of each split if all subfolders are splits, or ``options`` name splits; else ``data`` unsplit."""
    folders = _folders(data)
    is_named = any(name is not None for name in options.split_names.values())
    in_splits = bool(folders) and (is_named or all(is_split(folder.name, options) for folder in folders))
    return find_splits(data, folders, options) if in_splits else {WHOLE: data}


def _folders(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir()]


def _files(root: Path, suffixes: Collection[str], what: str, cure: str = "") -> Found:
    """All data files of a folder and its subfolders."""
    found = find_files(root, suffixes)
    if not found.files:
        raise RltrError(f"no {what} in {root} (looked for {' '.join(sorted(suffixes))}{list_others(found)}){cure}")
    return found


def _by_class(root: Path, suffixes: Collection[str], what: str, or_else: str) -> dict[str, Found]:
    """The files of each class, and under an empty name those that are in no class folder."""
    folders = _folders(root)
    if not folders:
        raise RltrError(
            f"{root} has no subfolders; it should have one subfolder per class, with that class's {what} in it{or_else}"
        )
    cure = "; fill or remove that folder; a data set in splits may only have train, validation and test at its top"
    classes = {folder.name: _files(folder, suffixes, what, cure) for folder in folders}
    loose = [path for path in entries(root) if path.suffix.lower() in suffixes and path.is_file()]
    return {**classes, "": Found(outside=loose)}
