"""Examples that are given as tensors of model inputs in memory."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks.examples.base import Examples, Index, digest
from rltr.tasks.goals import Goal


class TensorExamples(Examples):
    """Examples whose model inputs are tensors in memory.

    Args:
        labels: the label of each example.
        names: a short name per example.
        classes: the names of the classes, by label.
        inputs: model inputs by name, each with one row per example.
        pictures: ``(examples, height, width)`` grey or ``(examples, height, width, 3)`` colour, uint8, for the gallery.
        goal: the metric and head; None for single-label classification.

    Raises:
        RltrError: if the numbers of labels, names and input rows differ, or are 0.
    """

    def __init__(
        self,
        labels: Shaped[Tensor, "examples *label"],
        names: Sequence[str],
        classes: Sequence[str],
        inputs: Mapping[str, Tensor],
        pictures: NDArray[np.uint8] | None = None,
        goal: Goal | None = None,
    ) -> None:
        super().__init__(labels, names, classes)
        if goal is not None:
            self.goal = goal
        counts = {"labels": len(labels), "names": len(names), **{name: len(rows) for name, rows in inputs.items()}}
        if not inputs or len(labels) == 0 or len(set(counts.values())) != 1:
            raise RltrError(
                f"labels, names and inputs must have the same number of rows, and at least one; got {counts}"
            )
        self.inputs = dict(inputs)
        self.pictures = pictures

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        return {name: rows[chosen] for name, rows in self.inputs.items()}

    def fingerprint(self) -> str:
        """See ``Examples``."""
        return digest(
            part
            for name, rows in sorted(self.inputs.items())
            for part in (
                f"{name} {rows.dtype} {list(rows.shape)}",
                rows.contiguous().view(-1).view(torch.uint8).numpy(),
            )
        )

    def picture(self, i: int) -> Image.Image | None:
        """See ``Examples``."""
        return None if self.pictures is None else Image.fromarray(self.pictures[i])
