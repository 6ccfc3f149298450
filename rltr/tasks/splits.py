"""Train, validation and test: found by their names, or dealt out by fractions."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks.examples import Examples, Task
from rltr.tasks.options import DataOptions

SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
"""What a split's folder or file may be called, in any case, and which split it is."""


def find_splits(data: Path, entries: Iterable[Path]) -> dict[str, Path]:
    """The three splits among a folder's entries (files or folders), by their names without suffix.

    Raises:
        RltrError: if one is missing or there are two of the same.
    """
    found: dict[str, Path] = {}
    for path in sorted(entries):
        split = SPLITS[path.stem.lower()]
        if split in found:
            raise RltrError(f"{data} has two {split} splits, {found[split].name} and {path.name}; remove one of them")
        found[split] = path
    missing = [split for split in ("train", "validation", "test") if split not in found]
    if missing:
        raise RltrError(
            f"{data} has {', '.join(path.name for path in found.values())} but no {' and no '.join(missing)}; "
            "add what is missing, or give the data unsplit, to have it divided by fractions"
        )
    return found


def divide(examples: Examples, kind: str, options: DataOptions, data: Path) -> Task:
    """Deal a whole data set out to three splits.

    Raises:
        RltrError: if a split would get nothing.
    """
    train, validation, test = (examples.subset(part) for part in deal(examples.labels, options))
    for name, split in (("train", train), ("validation", validation), ("test", test)):
        if len(split) == 0:
            raise RltrError(
                f"{data} has only {len(examples)} examples, which leaves none for {name} at fractions "
                f"{', '.join(map(str, options.fractions))}; add examples or choose other fractions"
            )
    return Task(train, validation, test, kind)


def deal(labels: Shaped[Tensor, "examples *label"], options: DataOptions) -> list[list[int]]:
    """Which examples go to train, validation and test: at random within each class, so that all know it.

    Where labels are no classes (numbers, or several per example), at random altogether.
    """
    generator = np.random.default_rng(options.seed)
    is_class = labels.ndim == 1 and not labels.is_floating_point()
    classes = labels.numpy() if is_class else np.zeros(len(labels), dtype=np.int64)
    place = np.empty(len(classes))
    for label in np.unique(classes):
        mine = (classes == label).nonzero()[0]
        # The middle of its share of 0 to 1, so that a class of any size is cut at the nearest possible places.
        place[generator.permutation(mine)] = (np.arange(len(mine)) + 0.5) / len(mine)
    part = np.searchsorted(np.cumsum(options.fractions)[:2], place, side="right")
    return [(part == number).nonzero()[0].tolist() for number in range(3)]
