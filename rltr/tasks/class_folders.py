"""Files in one folder per class: images, sounds."""

from collections.abc import Collection
from pathlib import Path

from rltr.errors import RltrError
from rltr.tasks.options import WITHOUT_LABELS, DataOptions
from rltr.tasks.splits import WHOLE, find_splits, is_split


def read_class_folders(
    data: Path, suffixes: Collection[str], what: str, options: DataOptions
) -> dict[str, dict[str, list[Path]]]:
    """Files by split and class; a folder that is not divided into splits is the one split ``WHOLE``.

    Either ``data/train/CLASS/…``, ``data/test/CLASS/…`` and, unless it shall be cut from train,
    ``data/validation/CLASS/…`` (or ``val``), or ``data/CLASS/…``. Class folders may have folders of their own.

    Args:
        data: the folder.
        suffixes: of the files that count, in lower case; others are left alone.
        what: the files, in words.
        options: may say what the splits are called.

    Raises:
        RltrError: if the folder holds nothing of that kind, or a class is empty.
    """
    if not data.is_dir():
        raise RltrError(f"{data} is not a folder; this model needs a folder with one subfolder of {what} per class")
    roots = split_folders(data, options)
    return {split: _files_by_class(root, suffixes, what) for split, root in roots.items()}


def split_folders(data: Path, options: DataOptions) -> dict[str, Path]:
    """The folder of each split, if ``data`` has nothing but such (or ``options`` name some), or else it as a whole."""
    folders = _folders(data)
    is_named = any(name is not None for name in options.split_names.values())
    in_splits = bool(folders) and (is_named or all(is_split(folder.name, options) for folder in folders))
    return find_splits(data, folders, options) if in_splits else {WHOLE: data}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files_by_class(root: Path, suffixes: Collection[str], what: str) -> dict[str, list[Path]]:
    classes = {
        folder.name: sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
        for folder in _folders(root)
    }
    if not classes:
        raise RltrError(
            f"{root} has no subfolders; it should have one for each class, with that class's {what} in it; "
            f"or {WITHOUT_LABELS}"
        )
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise RltrError(
            f"no {what} in {root / empty[0]} (looked for {' '.join(sorted(suffixes))}); "
            "fill or remove that folder; a data set in splits may only have train, validation and test at its top"
        )
    return classes
