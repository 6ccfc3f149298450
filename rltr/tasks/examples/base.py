"""The base class of examples: model inputs by index, as training, evaluation and the gallery use them."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks.goals import Classification, Goal

Index = Sequence[int] | Int[Tensor, " rows"]
"""Indices of examples, 0 to ``len(examples) - 1``, in any order; repeats are allowed."""
PROBED = 256
"""Number of examples that ``content`` covers if the data have no fingerprint."""
log = logging.getLogger(__name__)


class Examples(ABC):
    """The inputs of one split and their labels.

    A subclass implements ``batch``, and ``picture`` or ``words`` if the gallery should show its inputs.

    Args:
        labels: the class of each example, 0 to ``len(classes) - 1``, unless ``goal`` needs other labels.
        names: a short name per example, for the gallery.
        classes: the names of the model's classes, by label; empty if there are no classes.
    """

    goal: Goal = Classification()
    """The metric and the head. Code that builds examples with labels other than class indices must set it."""

    def __init__(self, labels: Shaped[Tensor, "examples *label"], names: Sequence[str], classes: Sequence[str]) -> None:
        self.labels = labels
        self.names = list(map(printable, names))
        self.classes = list(map(printable, classes))

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @abstractmethod
    def batch(self, index: Index) -> dict[str, Tensor]:
        """Model inputs of the chosen examples, on the CPU, one row each, padded to the longest of them.

        Raises:
            RltrError: if an input cannot be read; the message names it.
        """

    def picture(self, i: int) -> Image.Image | None:
        """Example ``i`` as an image, cropped and scaled like the model's input; None for texts."""
        return None

    def words(self, i: int) -> list[str] | None:
        """Example ``i`` as one string per token, without padding; None for images."""
        return None

    def lengths(self) -> Sequence[int] | None:
        """Number of tokens of each example; None if all have the same number."""
        return None

    def longest(self) -> int:
        """Index of the example with most tokens; any example if all have the same number of tokens."""
        lengths = self.lengths()
        return 0 if lengths is None else max(range(len(lengths)), key=lengths.__getitem__)

    def typical(self) -> int:
        """Index of the example of median length; any example if all have the same number of tokens."""
        lengths = self.lengths()
        return 0 if lengths is None else sorted(range(len(lengths)), key=lengths.__getitem__)[len(lengths) // 2]

    def fingerprint(self) -> str | None:
        """A digest of the model inputs, the same in every process; None if there is none, which disables caches."""
        return None

    def content(self) -> str:
        """A digest of inputs, labels, classes and goal, which is compared when a training is resumed.

        Unlike the fingerprint, it does not depend on the versions of libraries, or on the paths and times of files.
        """
        labels = self.labels.contiguous().view(-1)
        about = [json.dumps(self.classes), f"{labels.dtype} {list(self.labels.shape)}", self.goal.fingerprint()]
        return digest([self._inputs(range(len(self))), labels.view(torch.uint8).numpy(), *about])

    def _inputs(self, index: Sequence[int]) -> str:
        """A digest of the stored inputs; without a fingerprint, of the model inputs of some examples."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        whole = self.fingerprint()
        if whole is not None:
            return digest([whole, chosen.numpy()])
        some = chosen[:: max(1, len(chosen) // PROBED)].tolist()
        parts = [(name, rows) for i in some for name, rows in sorted(self.batch([i]).items())]
        return digest(
            part
            for name, rows in parts
            for part in (
                f"{name} {rows.dtype} {list(rows.shape)}",
                rows.contiguous().view(-1).view(torch.uint8).numpy(),
            )
        )

    def fault(self, i: int) -> str | None:
        """Why example ``i`` cannot be used, with its name; None if it can. Reads the input without caching it."""
        return None

    def subset(self, index: Index) -> "Examples":
        """The chosen examples, read from this object when they are needed."""
        return Subset(self, index)

    def at_most(self, count: int | None, seed: int = 0) -> "Examples":
        """At most ``count`` examples, drawn at random and kept in their order.

        They are drawn at random because folders are sorted by class.

        Args:
            count: 1 or more; None gives all examples, as does a number of at least ``len(self)``.
            seed: seed of the draw.

        Raises:
            RltrError: if ``count`` is below 1.
        """
        if count is not None and count < 1:
            raise RltrError(f"a data set can be limited to 1 example or more, not {count}")
        if count is None or count >= len(self):
            return self
        return self.subset(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]).tolist())


class Subset(Examples):
    """Some examples of another ``Examples`` object, in the given order."""

    def __init__(self, examples: Examples, index: Index) -> None:
        self.examples = examples
        self.index = torch.as_tensor(index, dtype=torch.long)
        names = [examples.names[i] for i in self.index.tolist()]
        super().__init__(examples.labels[self.index], names, examples.classes)
        self.goal = examples.goal

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``."""
        return self.examples.batch(self.index[torch.as_tensor(index, dtype=torch.long)])

    def lengths(self) -> Sequence[int] | None:
        """See ``Examples``."""
        lengths = self.examples.lengths()
        return None if lengths is None else [lengths[i] for i in self.index.tolist()]

    def fingerprint(self) -> str | None:
        """See ``Examples``."""
        whole = self.examples.fingerprint()
        return None if whole is None else digest([whole, self.index.numpy().tobytes()])

    def _inputs(self, index: Sequence[int]) -> str:
        return self.examples._inputs(self.index[torch.as_tensor(index, dtype=torch.long)].tolist())

    def fault(self, i: int) -> str | None:
        """See ``Examples``."""
        return self.examples.fault(int(self.index[i]))

    def picture(self, i: int) -> Image.Image | None:
        """See ``Examples``."""
        return self.examples.picture(int(self.index[i]))

    def words(self, i: int) -> list[str] | None:
        """See ``Examples``."""
        return self.examples.words(int(self.index[i]))


@dataclass
class Task:
    """Train, validation and test split for a model; no example is in two splits.

    Args:
        train: the examples that the policy is trained on.
        validation: the examples that budgets are calibrated on and training is monitored with.
        test: the examples of the final measurement.
        kind: a name in :data:`rltr.tasks.KINDS`.
    """

    train: Examples
    validation: Examples
    test: Examples
    kind: str

    def at_most(self, train: int | None, validation: int | None, test: int | None, seed: int = 0) -> "Task":
        """The same task with at most this many examples in each split; see ``Examples.at_most``."""
        return Task(
            self.train.at_most(train, seed),
            self.validation.at_most(validation, seed),
            self.test.at_most(test, seed),
            self.kind,
        )

    def without_faults(self) -> "Task":
        """The same task without the examples that cannot be used; a warning names them.

        All other examples stay in their split. Reads every input once.

        Raises:
            RltrError: if no example of a split can be used.
        """
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        faults = {
            name: {i: fault for i in range(len(part)) if (fault := part.fault(i))} for name, part in parts.items()
        }
        said = [fault for found in faults.values() for fault in found.values()]
        if not said:
            return self
        for name, part in parts.items():
            if len(faults[name]) == len(part):
                raise RltrError(f"none of the {len(part)} examples of {name} can be used; the first: {said[0]}")
        total = sum(map(len, parts.values()))
        more = f"; and {len(said) - 20} more" if len(said) > 20 else ""
        log.warning("left out %d of %d examples: %s%s", len(said), total, "; ".join(said[:20]), more)
        good = {
            name: part.subset([i for i in range(len(part)) if i not in faults[name]]) if faults[name] else part
            for name, part in parts.items()
        }
        return Task(good["train"], good["validation"], good["test"], self.kind)


def printable(name: str) -> str:
    """Escape what cannot be encoded as UTF-8: file names may contain bytes that are not valid Unicode."""
    return name.encode("utf-8", "backslashreplace").decode()


def digest(parts: Iterable[str | bytes | NDArray[Any]]) -> str:
    """SHA-256 of strings, bytes and contiguous arrays.

    The length of each part is included, so that different lists with the same concatenation have different digests.
    """
    whole = hashlib.sha256()
    for part in parts:
        # File names may contain bytes that are not valid Unicode, and texts may contain lone surrogates.
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else _bytes(part)
        whole.update(len(data).to_bytes(8, "little"))
        whole.update(data)
    return whole.hexdigest()


def digest_files(paths: Sequence[Path]) -> str:
    """SHA-256 of the paths, sizes and modification times of files, which is faster than reading them."""
    found = [(path, path.stat()) for path in paths]
    return digest(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}" for path, stat in found)


def _bytes(part: Any) -> "bytes | memoryview":
    return memoryview(part).cast("B") if len(part) else b""  # an empty view cannot be cast
