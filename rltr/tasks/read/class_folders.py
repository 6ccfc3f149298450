"""Files in one folder per class: images, sounds."""

from collections.abc import Collection
from pathlib import Path

from rltr.errors import RltrError
from rltr.tasks.options import OR_WITHOUT, DataOptions
from rltr.tasks.read.file_search import Found, entries, find_files, say_left_out, there_is
from rltr.tasks.read.splits import WHOLE, find_splits, is_split


def read_class_folders(
    data: Path, suffixes: Collection[str], what: str, options: DataOptions, or_else: str = OR_WITHOUT
) -> dict[str, dict[str, list[Path]]]:
    """Files by split and class; a folder that is not divided into splits is the one split ``WHOLE``.

    Either ``data/train/CLASS/…``, ``data/test/CLASS/…`` and, unless it is to be cut from train,
    ``data/validation/CLASS/…`` (or ``val``), or ``data/CLASS/…``. Class folders may have folders of their own.

    Args:
        data: the folder.
        suffixes: of the files that count, in lower case; that there are others is said.
        what: the files, in words.
        options: may say what the splits are called.
        or_else: what else can be done where there are no classes.

    Raises:
        RltrError: if the folder holds nothing of that kind, or a class is empty.
    """
    if not data.is_dir():
        raise RltrError(f"{data} is not a folder; this model needs a folder with one subfolder of {what} per class")
    found = {
        split: _found_by_class(root, suffixes, what, or_else) for split, root in split_folders(data, options).items()
    }
    say_left_out(data, (part for classes in found.values() for part in classes.values()), what)
    return {split: {name: part.files for name, part in classes.items() if name} for split, classes in found.items()}


def split_folders(data: Path, options: DataOptions) -> dict[str, Path]:
    """The folder of each split, if ``data`` has nothing but such (or ``options`` name some), or else it as a whole."""
    folders = _folders(data)
    is_named = any(name is not None for name in options.split_names.values())
    in_splits = bool(folders) and (is_named or all(is_split(folder.name, options) for folder in folders))
    return find_splits(data, folders, options) if in_splits else {WHOLE: data}


def _folders(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir()]


def _found_by_class(root: Path, suffixes: Collection[str], what: str, or_else: str) -> dict[str, Found]:
    """What there is of each class, and under no name what lies in no class's folder."""
    folders = _folders(root)
    if not folders:
        raise RltrError(
            f"{root} has no subfolders; it should have one for each class, with that class's {what} in it{or_else}"
        )
    classes = {folder.name: find_files(folder, suffixes) for folder in folders}
    for name, found in classes.items():
        if not found.files:
            raise RltrError(
                f"no {what} in {root / name} (looked for {' '.join(sorted(suffixes))}{there_is(found)}); "
                "fill or remove that folder; a data set in splits may only have train, validation and test at its top"
            )
    loose = [path for path in entries(root) if path.suffix.lower() in suffixes and path.is_file()]
    return {**classes, "": Found(outside=loose)}
