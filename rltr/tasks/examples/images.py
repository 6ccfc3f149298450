"""Examples that are images, read and preprocessed when they are needed.

Images are decoded in the training process, because a pool of workers was not faster. Measured on two cores (128 JPEGs
of 500×375 pixels, resized to 224×224, machine not idle): 12.6 to 13.7 ms per image one by one, 12.7 to 12.8 ms with two
threads, 16.6 to 16.9 ms with two processes, which must return 600 kB per image. Nearly all of the time is the image
processor's resizing.
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
    """Images, preprocessed by the model's own image processor.

    Args:
        files, labels, names, classes: see ``StoredExamples``.
        processor: the model's own image processor.
        channels: number of input channels of the model: 1 (grey) or 3 (RGB).
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
                    f"{self._called(i)} is preprocessed to shape {tuple(row.shape)}, but {self._called(chosen[0])} to "
                    f"{tuple(rows[0].shape)}; the model's image processor must resize or crop to one size"
                )
        return {"pixel_values": torch.stack(rows)}

    def picture(self, i: int) -> Image.Image:
        """See ``Examples``: the preprocessed image, normalisation undone, so patches are where the model has them."""
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
        # The image already has the model's number of channels. The processor must not convert grey images to RGB.
        values: Tensor = self.processor(images=[content], do_convert_rgb=False, return_tensors="pt")["pixel_values"][0]
        return values


def _per_channel(numbers: float | Sequence[float]) -> Float[Tensor, "channels 1 1"]:
    return torch.as_tensor(numbers, dtype=torch.float32).view(-1, 1, 1)


def load_processor(model: PreTrainedModel, source: str) -> tuple[Any, int]:
    """Load the model's image processor, and return it with the model's number of input channels (1 or 3).

    Raises:
        RltrError: if it cannot be loaded, the number of channels is not 1 or 3, or the model takes images of any shape.
    """
    if "spatial_shapes" in inspect.signature(model.forward).parameters:
        raise RltrError(
            f"{type(model).__name__} takes images of any shape (spatial_shapes, pixel_attention_mask), but rltr reads "
            "files as images of one size: pass its processor's outputs as an iterable (see rltr.tasks.load_task), or "
            "use a checkpoint with a fixed size"
        )
    # The PIL backend, because rltr requires PIL but not torchvision; the two backends differ mainly in speed.
    processor = load_part(AutoImageProcessor, source, "image processor", "a preprocessor_config.json", backend="pil")
    channels = getattr(model.config, "num_channels", 3)
    if channels not in (1, 3):
        raise RltrError(f"the model takes {channels} channels per pixel; images have 1 (grey) or 3 (RGB)")
    return processor, channels
