"""Examples whose model inputs are tensors in memory already."""

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
    """Inputs that are tensors in memory already.

    Args:
        labels: what is true of each example.
        names: a short name per example.
        classes: the names of the classes, by label.
        inputs: model inputs by name, each with one row per example.
        pictures: ``(examples, height, width)`` grey or ``(examples, height, width, 3)`` colour, uint8, for the gallery.
        goal: what counts as right; None for one class each.

    Raises:
        RltrError: if labels, names and inputs are not equally many, or there are none.
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
            raise RltrError(f"a data set needs equally many labels, names and input rows, at least one; got {counts}")
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
