"""What rltr ships, to run without any download: a small frozen ViT and its canvases. Its card is README.md here."""

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
"""Seeds of the canvases."""


class Canvases(Examples):
    """Canvases kept as bytes, a quarter of what they take as pixel values."""

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
    """The embedded ViT, in evaluation mode and without gradients; 10 classes, 14x14 patches, ``(rows, 1, 56, 56)``.

    Raises:
        RltrError: if the installed package lacks its files.
    """
    model = loading.load_model(loading.EMBEDDED)
    assert isinstance(model, ViTForImageClassification)
    return model


def load_task(train: int | None = None, validation: int | None = None, test: int | None = None) -> Task:
    """Cluttered, translated garments for the embedded ViT; the same pixels each time.

    Args:
        train: at most this many examples, the first ones (they are in no order); None for all 6,000.
        validation: the same, of 2,000.
        test: the same, of 5,000.

    Raises:
        RltrError: if a limit is below 1, or the installed package lacks its files.
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
        # All are drawn, whatever the limit: clutter comes from other garments, and must not depend on it.
        canvases = draw_canvases(garments, SEEDS[split])[0][:limit]
        return Canvases(canvases, torch.from_numpy(labels[:limit].astype(np.int64)), split, classes)

    return Task(examples("train", train), examples("validation", validation), examples("test", test), "image")
