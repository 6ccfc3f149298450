"""Examples that are images, read and prepared when they are needed.

Images are decoded here, in the process that trains. A pool was tried on two cores (128 JPEGs of 500×375, prepared to
224×224; the machine had other work): 12.6 to 13.7 ms per image one by one, 12.7 to 12.8 in two threads, 16.6 to 16.9 in
two processes, which hand back 600 kB for each. Nearly all of it is the processor's resizing.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.examples.base import Index
from rltr.tasks.examples.files import CACHE_BYTES, StoredExamples
from rltr.tasks.read.image_files import read_image
from rltr.tasks.read.processors import load_part
from rltr.tasks.read.stored_files import StoredFile


class ImageExamples(StoredExamples):
    """Images, prepared by the model's own processor.

    Args:
        files, labels, names, classes: see ``StoredExamples``.
        processor: the model's own image processor.
        channels: 1 or 3: whether the model sees grey or RGB.
        cache_bytes, identity: see ``StoredExamples``.
    """

    def __init__(
        self,
        files: Sequence[StoredFile],
        labels: Shaped[Tensor, "examples *label"],
        names: Sequence[str],
        classes: Sequence[str],
        processor: Any,
        channels: int,
        cache_bytes: int = CACHE_BYTES,
        identity: str | None = None,
    ) -> None:
        super().__init__(files, labels, names, classes, cache_bytes, identity)
        self.processor = processor
        self.channels = channels

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: ``pixel_values (rows, channels, height, width)``."""
        chosen = torch.as_tensor(index, dtype=torch.long).tolist()
        rows = [self._prepared(i) for i in chosen]
        for i, row in zip(chosen, rows, strict=True):
            if row.shape != rows[0].shape:
                raise RltrError(
                    f"{self._called(i)} is prepared to {tuple(row.shape)} but {self._called(chosen[0])} to "
                    f"{tuple(rows[0].shape)}; the model's image processor must resize or crop to one size"
                )
        return {"pixel_values": torch.stack(rows)}

    def picture(self, i: int) -> Image.Image:
        """See ``Examples``: the prepared image with its normalisation undone; patches lie where the model has them."""
        values = self._prepared(i)
        processor = self.processor
        if getattr(processor, "do_normalize", False):
            values = values * _per_channel(processor.image_std) + _per_channel(processor.image_mean)
        factor = processor.rescale_factor if getattr(processor, "do_rescale", False) else 1.0
        grey = (values / factor).round().clamp(0, 255).to(torch.uint8).numpy()
        return Image.fromarray(grey[0] if len(grey) == 1 else np.ascontiguousarray(grey.transpose(1, 2, 0)))

    def _facts(self) -> list[str]:
        return [type(self.processor).__name__, self.processor.to_json_string(), str(self.channels)]

    def _versions(self) -> list[str]:
        return [PIL.__version__]

    def _read(self, i: int) -> Image.Image:
        return read_image(self.files[i], self.channels, self._called(i))

    def _process(self, content: Image.Image) -> Float[Tensor, "channels height width"]:
        # The image has the model's channels already; a processor that makes everything RGB would undo grey.
        values: Tensor = self.processor(images=[content], do_convert_rgb=False, return_tensors="pt")["pixel_values"][0]
        return values


def _per_channel(numbers: float | Sequence[float]) -> Float[Tensor, "channels 1 1"]:
    return torch.as_tensor(numbers, dtype=torch.float32).view(-1, 1, 1)


def load_processor(model: PreTrainedModel, source: str) -> tuple[Any, int]:
    """The model's image processor, and how many channels it sees.

    Raises:
        RltrError: if it cannot be loaded, the channels are neither grey nor RGB, or the model takes any shape of image.
    """
    if "spatial_shapes" in inspect.signature(model.forward).parameters:
        raise RltrError(
            f"{type(model).__name__} takes images of any shape (spatial_shapes, pixel_attention_mask), and rltr reads "
            "files as images of one size: pass what its processor makes as an iterable (see rltr.tasks.load_task), or "
            "take a checkpoint of one size"
        )
    # Only PIL is required: the torchvision form of a processor differs in speed, and not in what it is for.
    processor = load_part(AutoImageProcessor, source, "image processor", "a preprocessor_config.json", backend="pil")
    channels = getattr(model.config, "num_channels", 3)
    if channels not in (1, 3):
        raise RltrError(f"the model takes {channels} channels per pixel; images have 1 (grey) or 3 (RGB)")
    return processor, channels
