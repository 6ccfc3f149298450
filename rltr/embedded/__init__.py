"""The model and data that come with rltr, so that it runs without downloads: a small ViT and images for it.

``README.md`` in this folder is their model and data card.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import ViTForImageClassification

from rltr.embedded.canvas import draw_canvases, pixels
from rltr.errors import RltrError
from rltr.tasks import models as loading
from rltr.tasks.examples.base import Examples, Index, Task, digest

__all__ = ["Canvases", "load_model", "load_task"]

GARMENTS = Path(__file__).parent / "garments.npz"
SEEDS = {"train": 3, "validation": 1, "test": 2}
"""Seed of the canvases of each split."""


class Canvases(Examples):
    """Examples that are canvases, stored as uint8, which takes a quarter of the memory of float32 pixel values."""

    def __init__(
        self, canvases: NDArray[np.uint8], labels: Int[Tensor, " examples"], split: str, classes: list[str]
    ) -> None:
        super().__init__(labels, [f"{split}/{i}" for i in range(len(labels))], classes)
        self.canvases = canvases

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: ``pixel_values``, ``(rows, 1, 56, 56)``."""
        return {"pixel_values": pixels(self.canvases[torch.as_tensor(index, dtype=torch.long).numpy()])}

    def fingerprint(self) -> str:
        """See ``Examples``."""
        return digest([str(self.canvases.shape), np.ascontiguousarray(self.canvases)])

    def picture(self, i: int) -> Image.Image:
        """See ``Examples``."""
        return Image.fromarray(self.canvases[i])


def load_model() -> ViTForImageClassification:
    """Load the embedded ViT, frozen and in evaluation mode: 10 classes, 14x14 patches, inputs ``(rows, 1, 56, 56)``.

    Raises:
        RltrError: if its files are missing from the installed package.
    """
    model = loading.load_model(loading.EMBEDDED)
    assert isinstance(model, ViTForImageClassification)
    return model


def load_task(train: int | None = None, validation: int | None = None, test: int | None = None) -> Task:
    """Load the embedded data, cluttered and translated garments for the embedded ViT; the pixels are always the same.

    Args:
        train: limit of training examples, of which the first ones are taken (they are not sorted); None for all 6,000.
        validation: limit of validation examples; None for all 2,000.
        test: limit of test examples; None for all 5,000.

    Raises:
        RltrError: if a limit is below 1, or the files are missing from the installed package.
    """
    if not GARMENTS.is_file():
        raise RltrError(f"the embedded data is not in this installation of rltr ({GARMENTS}); install it again")
    with np.load(GARMENTS, allow_pickle=False) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    classes = stored["classes"].tolist()

    def examples(split: str, limit: int | None) -> Canvases:
        garments, labels = stored[f"{split}_garments"], stored[f"{split}_labels"]
        if limit is not None and limit < 1:
            raise RltrError(f"the embedded {split} split can be limited to 1 example or more, not {limit}")
        # All canvases are drawn before the limit is applied, because their clutter is cut from other garments.
        canvases = draw_canvases(garments, SEEDS[split])[0][:limit]
        return Canvases(canvases, torch.from_numpy(labels[:limit].astype(np.int64)), split, classes)

    return Task(examples("train", train), examples("validation", validation), examples("test", test), "image")
