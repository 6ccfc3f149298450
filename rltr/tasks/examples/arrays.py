"""Examples that are given as arrays of model inputs, in memory or memory-mapped."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rltr.tasks.examples.base import Examples, Index, digest

Rows = NDArray[Any] | Sequence[NDArray[Any]]
"""One model input of all examples: one array, or a list with an array per example if their lengths differ."""


class ArrayExamples(Examples):
    """Model inputs as arrays, in memory or memory-mapped.

    Args:
        labels: the label of each example.
        names: a short name per example.
        classes: the names of the classes, by label.
        inputs: model inputs by argument name of the model's ``forward``. Rows of different lengths are padded at their
            end. If ``input_ids`` have different lengths and no ``attention_mask`` is given, one is added.
        padding: the token that ``input_ids`` are padded with; all other inputs are padded with 0.
    """

    def __init__(
        self,
        labels: Shaped[Tensor, "examples *label"],
        names: Sequence[str],
        classes: Sequence[str],
        inputs: Mapping[str, Rows],
        padding: int = 0,
    ) -> None:
        super().__init__(labels, names, classes)
        self.inputs = dict(inputs)
        self.padding = padding
        ids = self.inputs.get("input_ids")
        if ids is not None and not isinstance(ids, np.ndarray) and "attention_mask" not in self.inputs:
            self.inputs["attention_mask"] = [np.ones(len(row), np.int64) for row in ids]

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: every input, padded to the longest of the chosen rows."""
        chosen = torch.as_tensor(index, dtype=torch.long).tolist()
        made = {
            name: _stack(rows, chosen, self.padding if name == "input_ids" else 0) for name, rows in self.inputs.items()
        }
        mask = made.get("attention_mask")
        if mask is not None and mask.ndim == 2 and "input_ids" in made:
            # Only padding at the end is cut: cutting it at the start would shift the positions of the tokens.
            seen = mask.any(0).nonzero()
            width = int(seen.max()) + 1 if len(seen) else 1
            made = {name: rows[:, :width] if rows.shape[:2] == mask.shape else rows for name, rows in made.items()}
        return made

    def lengths(self) -> Sequence[int] | None:
        """See ``Examples``: up to the last position that the attention mask includes."""
        mask = self.inputs.get("attention_mask")
        if mask is None:
            return None
        return [int(np.flatnonzero(row).max(initial=-1)) + 1 for row in mask]

    def fingerprint(self) -> str:
        """See ``Examples``: covers all arrays."""
        return digest(
            part
            for name, rows in sorted(self.inputs.items())
            for row in ([rows] if isinstance(rows, np.ndarray) else rows)
            for part in (f"{name} {row.dtype} {row.shape}", np.ascontiguousarray(row).reshape(-1).view(np.uint8))
        )

    def fault(self, i: int) -> str | None:
        """See ``Examples``."""
        for name, rows in self.inputs.items():
            row = rows[i]
            if np.issubdtype(row.dtype, np.floating) and not np.isfinite(row).all():
                return f"{self.names[i]}: {name} holds NaN or infinity"
        mask = self.inputs.get("attention_mask")
        return f"{self.names[i]} has no token" if mask is not None and not mask[i].any() else None

    def picture(self, i: int) -> Image.Image | None:
        """See ``Examples``: pixel values scaled from black (smallest) to white (largest); None for other inputs."""
        rows = self.inputs.get("pixel_values")
        if rows is None or rows[i].ndim != 3 or rows[i].shape[0] not in (1, 3):
            return None
        values = rows[i].astype(np.float32)
        grey = (255 * (values - values.min()) / max(float(np.ptp(values)), 1e-6)).round().astype(np.uint8)
        return Image.fromarray(grey[0] if len(grey) == 1 else np.ascontiguousarray(grey.transpose(1, 2, 0)))


def _stack(rows: Rows, chosen: Sequence[int], padding: int) -> Shaped[Tensor, "rows ..."]:
    if isinstance(rows, np.ndarray):
        return torch.from_numpy(np.array(rows[chosen]))  # a copy: the array may be memory-mapped or the user's
    parts = [rows[i] for i in chosen]
    made = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), padding, parts[0].dtype)
    for row, part in zip(made, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(made)
