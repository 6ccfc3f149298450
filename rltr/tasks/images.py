"""Images from one folder per class, or per number."""

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.class_folders import read_class_folders
from rltr.tasks.examples import Examples, Index, Task
from rltr.tasks.heads import Labelling, read_labels
from rltr.tasks.options import DataOptions
from rltr.tasks.source import load_part
from rltr.tasks.splits import divide

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
"""Files with other suffixes are left alone."""
CACHE_BYTES = 2**28
"""Prepared images that one data set keeps in memory: 256 MiB, 445 of 224-pixel RGB."""


class ImageExamples(Examples):
    """Images on disk, read when they are asked for; the last ones used stay in memory, prepared.

    Args:
        paths: one file per example.
        labels: what is true of each.
        names: a short name per example.
        classes: the names of the classes, by label.
        processor: the model's own image processor.
        channels: 1 or 3: whether the model sees grey or RGB.
        cache_bytes: most bytes of prepared images to keep.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Shaped[Tensor, "examples *label"],
        names: Sequence[str],
        classes: Sequence[str],
        processor: Any,
        channels: int,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        super().__init__(labels, names, classes)
        self.paths = list(paths)
        self.processor = processor
        self.channels = channels
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._cached_bytes = 0

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: ``pixel_values (rows, channels, height, width)``."""
        chosen = torch.as_tensor(index, dtype=torch.long).tolist()
        rows = [self._prepared(i) for i in chosen]
        for i, row in zip(chosen, rows, strict=True):
            if row.shape != rows[0].shape:
                raise RltrError(
                    f"{self.paths[i]} is prepared to {tuple(row.shape)} but {self.paths[chosen[0]]} to "
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

    def _prepared(self, i: int) -> Float[Tensor, "channels height width"]:
        """One image as the model takes it, from memory if it was used lately."""
        if i in self._cache:
            self._cache.move_to_end(i)
            return self._cache[i]
        image = read_image(self.paths[i], self.channels)
        # The image has the model's channels already; a processor that makes everything RGB would undo grey.
        values = self.processor(images=[image], do_convert_rgb=False, return_tensors="pt")["pixel_values"][0]
        self._cache[i] = values
        self._cached_bytes += values.nbytes
        while self._cached_bytes > self.cache_bytes:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return values


def _per_channel(numbers: float | Sequence[float]) -> Float[Tensor, "channels 1 1"]:
    return torch.as_tensor(numbers, dtype=torch.float32).view(-1, 1, 1)


def read_image(path: Path, channels: int) -> Image.Image:
    """Read a file, upright, as grey (``channels`` 1) or RGB (3).

    Raises:
        RltrError: if it is no image, is damaged, or has more than 8 bits per channel (PIL would clip those to white).
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RltrError(f"{path} cannot be read as an image ({reason}); replace or remove the file") from error
    if image.mode.startswith(("I", "F")):
        raise RltrError(f"{path} has more than 8 bits per channel (mode {image.mode}); convert it to an 8-bit image")
    return image.convert("L" if channels == 1 else "RGB")


def load_images(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read a folder of images, one subfolder per class.

    See :func:`rltr.tasks.class_folders.read_class_folders`; what is not in splits is divided by ``options.fractions``.
    For a head that predicts a number, a folder's name is that number.

    Raises:
        RltrError: if the folder holds nothing of that kind, a class is empty, the classes do not fit the model's head,
            or the model's image processor cannot be loaded.
    """
    return image_task(model, data, source, options, partial(read_labels, config=model.config))


def image_task(
    model: PreTrainedModel,
    data: Path,
    source: str,
    options: DataOptions,
    read: Callable[[Iterable[str]], Labelling],
    kind: str = "image",
) -> Task:
    """Read a folder of images for a task of some kind, one subfolder per class, whose names ``read`` understands."""
    files = read_class_folders(data, SUFFIXES, "images")
    # Only PIL is required: the torchvision form of a processor differs in speed, and not in what it is for.
    processor = load_part(AutoImageProcessor, source, "image processor", "a preprocessor_config.json", backend="pil")
    channels = getattr(model.config, "num_channels", 3)
    if channels not in (1, 3):
        raise RltrError(f"the model takes {channels} channels per pixel; images have 1 (grey) or 3 (RGB)")
    labelling = read(name for split in files.values() for name in split)

    def examples(split: str) -> ImageExamples:
        pairs = [(path, name) for name, paths in files[split].items() for path in paths]
        paths, labels = [path for path, _ in pairs], labelling([name for _, name in pairs])
        names = [path.relative_to(data).as_posix() for path in paths]
        made = ImageExamples(paths, labels, names, labelling.classes, processor, channels)
        made.goal = labelling.goal
        return made

    if "all" in files:
        return divide(examples("all"), kind, options, data)
    return Task(examples("train"), examples("validation"), examples("test"), kind)
