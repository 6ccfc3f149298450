"""Find the train, validation and test split by name, or divide the data by fractions with a seed of its own."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from rltr.errors import RltrError
from rltr.recipe.data_options import DataOptions
from rltr.tasks.examples.base import Examples, Task
from rltr.tasks.read.file_search import entries

SPLITS = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
"""Names of folders, files or keys (case is ignored), and the split that each means."""
WHOLE = "all"
"""The name of data that are not split yet."""
Part = TypeVar("Part")
log = logging.getLogger(__name__)


def is_split(name: str, options: DataOptions) -> bool:
    """Whether ``name`` is the name of a split."""
    return name.lower() in SPLITS or name in options.split_names.values()


def choose_splits(data: object, found: Mapping[str, Part], options: DataOptions) -> dict[str, Part]:
    """Choose train, test and, if there is one, validation among the parts of a data set.

    Args:
        data: the data set, for messages.
        found: the parts, by name.
        options: may name the splits; for all others, ``SPLITS`` applies.

    Raises:
        RltrError: if train, test or a split that ``options`` name is missing, or two parts are the same split.
    """
    claimed = [name for name in options.split_names.values() if name is not None]
    chosen: dict[str, str] = {}
    for split, wanted in options.split_names.items():
        if wanted is not None:
            if wanted not in found:
                raise RltrError(f"{data} has no split {wanted!r} for {split}; it has {', '.join(found)}")
            chosen[split] = wanted
    for name in found:
        split = SPLITS.get(name.lower(), "")
        if not split or name in claimed or options.split_names[split] is not None:
            continue
        if split in chosen:
            raise RltrError(
                f"{data} has two {split} splits, {chosen[split]} and {name}; remove one of them, or name the one to "
                f"take with data.{split}_split"
            )
        chosen[split] = name
    missing = [split for split in ("train", "test") if split not in chosen]
    if missing:
        raise RltrError(
            f"{data} has {', '.join(found)} but no {' and no '.join(missing)}; add what is missing, or give its name "
            f"with data.{missing[0]}_split (a missing validation split is cut from train), or give the data unsplit, "
            "to have it divided by fractions"
        )
    return {split: found[name] for split, name in chosen.items()}


def find_splits(data: Path, entries: Iterable[Path], options: DataOptions) -> dict[str, Path]:
    """The splits among a folder's entries (files or folders), by their names without suffix; see ``choose_splits``."""
    found: dict[str, Path] = {}
    for path in sorted(entries):
        if path.stem in found:
            raise RltrError(f"{data} has both {found[path.stem].name} and {path.name}; remove one of them")
        found[path.stem] = path
    return choose_splits(data, found, options)


def find_split_files(data: Path, suffixes: Sequence[str], options: DataOptions) -> dict[str, Path]:
    """The splits among a folder's files with one of ``suffixes``; a warning names other such files.

    Raises:
        RltrError: if there is none, or see ``choose_splits``.
    """
    files = [path for path in entries(data) if path.suffix.lower() in suffixes]
    named = [path for path in files if is_split(path.stem, options)]
    if not named:
        raise RltrError(f"{data} holds no train, validation and test file ({', '.join(suffixes)})")
    if others := [path.name for path in files if path not in named]:
        more = ", …" if len(others) > 8 else ""
        log.warning("%s: left out, because no split has this name: %s%s", data, ", ".join(others[:8]), more)
    return find_splits(data, named, options)


def assemble(found: Mapping[str, Examples], kind: str, options: DataOptions, data: object) -> Task:
    """Build a task from the splits that were found: divide unsplit data, or cut a missing validation split from train.

    Args:
        found: the examples of ``WHOLE`` alone, or of train and test, with or without validation.
        kind: the kind of task.
        options: fractions and seed.
        data: the data set, for messages.

    Raises:
        RltrError: if a split would be empty.
    """
    made, shares = dict(found), dict(zip(("train", "validation", "test"), options.fractions, strict=True))
    if WHOLE in made:
        whole = made[WHOLE]
    elif "validation" not in made:
        whole = made["train"]
        del shares["test"]
    else:
        return Task(made["train"], made["validation"], made["test"], kind)
    fractions = [share / sum(shares.values()) for share in shares.values()]
    parts = dict(zip(shares, divide(whole.labels, fractions, options.seed), strict=True))
    for name, part in parts.items():
        if not part:
            raise RltrError(
                f"{data} has only {len(whole)} examples{'' if WHOLE in made else ' in train'}, which leaves none for "
                f"{name} at fractions {', '.join(map(str, options.fractions))}; add examples or choose other fractions"
            )
        made[name] = whole.subset(part)
    return Task(made["train"], made["validation"], made["test"], kind)


def divide(labels: Shaped[Tensor, "examples *label"], fractions: Sequence[float], seed: int) -> list[list[int]]:
    """Divide examples into parts at random within each class, so that every part has all classes.

    If classes are so small that a part would be empty, each class is cut at its own random positions instead, and a
    part has only some classes.

    Args:
        labels: class indices ``(examples,)``; with any other labels (numbers to predict, several labels, one per
            token), all examples count as one class.
        fractions: the fraction of each part; they sum to 1.
        seed: seed of the random order.

    Returns:
        The indices of the examples of each part.
    """
    generator = np.random.default_rng(seed)
    has_classes = labels.ndim == 1 and not labels.is_floating_point()
    classes = labels.numpy() if has_classes else np.zeros(len(labels), np.int64)
    members = [generator.permutation((classes == label).nonzero()[0]) for label in np.unique(classes)]
    # With offset 0.5 each example is at the middle of its interval, so the cuts of a class are rounded to nearest.
    parts = _cut(members, fractions, np.full(len(members), 0.5))
    if not all(parts):
        parts = _cut(members, fractions, generator.random(len(members)))
    return parts


def _cut(
    members: Sequence[NDArray[np.int64]], fractions: Sequence[float], offsets: NDArray[np.float64]
) -> list[list[int]]:
    """Spread the members of each class evenly over 0 to 1, shifted by ``offsets``, and cut them at the fractions.

    Args:
        members: the indices of each class's examples, in random order.
        fractions: the fraction of each part.
        offsets: position of the first member of each class, as a share of the distance between two members.
    """
    ends = np.cumsum(fractions)[:-1]
    part = np.empty(sum(map(len, members)), np.int64)
    for mine, offset in zip(members, offsets, strict=True):
        part[mine] = np.searchsorted(ends, (np.arange(len(mine)) + offset) / len(mine), side="right")
    return [(part == number).nonzero()[0].tolist() for number in range(len(fractions))]
