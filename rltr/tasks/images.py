"""Images from one folder per class (or per number), or from a table with a column of them.

Images are decoded here, in the process that trains. A pool was tried on two cores (128 JPEGs of 500×375, prepared to
224×224; the machine had other work): 12.6 to 13.7 ms per image one by one, 12.7 to 12.8 in two threads, 16.6 to 16.9 in
two processes, which hand back 600 kB for each. Nearly all of it is the processor's resizing.
"""

import io
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from jaxtyping import Float, Shaped
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.class_folders import read_class_folders
from rltr.tasks.examples import Examples, Index, Task, digest, digest_files
from rltr.tasks.heads import Labelling, read_labels
from rltr.tasks.options import DataOptions
from rltr.tasks.recent import Recent
from rltr.tasks.source import load_part
from rltr.tasks.splits import assemble
from rltr.tasks.table_labels import read_table_labels
from rltr.tasks.tables import Table

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
"""Files with other suffixes are left alone."""
CACHE_BYTES = 2**28
"""Prepared images that one data set keeps in memory: 256 MiB, 445 of 224-pixel RGB."""


ImageFile = Path | Mapping[str, Any] | None
"""A file, or what a table has in its place: its ``bytes``, or else its ``path``; None where there is none."""


class ImageExamples(Examples):
    """Images on disk, read when they are asked for; the last ones used stay in memory, prepared.

    Args:
        files: one per example.
        labels: what is true of each.
        names: a short name per example.
        classes: the names of the classes, by label.
        processor: the model's own image processor.
        channels: 1 or 3: whether the model sees grey or RGB.
        cache_bytes: most bytes of prepared images to keep.
        identity: a digest of all files; None takes paths, sizes and times of change.
    """

    def __init__(
        self,
        files: Sequence[ImageFile],
        labels: Shaped[Tensor, "examples *label"],
        names: Sequence[str],
        classes: Sequence[str],
        processor: Any,
        channels: int,
        cache_bytes: int = CACHE_BYTES,
        identity: str | None = None,
    ) -> None:
        super().__init__(labels, names, classes)
        self.files = files
        self.processor = processor
        self.channels = channels
        self.identity = identity
        self._prepared = Recent(self._prepare, cache_bytes)

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

    def fingerprint(self) -> str | None:
        """See ``Examples``: of the files, the processor and the version of PIL."""
        identity = self.identity
        if identity is None:
            paths = [file for file in self.files if isinstance(file, Path)]
            if len(paths) != len(self.files):
                return None
            identity = digest_files(paths)
        settings = self.processor.to_json_string()
        return digest([identity, type(self.processor).__name__, settings, str(self.channels), PIL.__version__])

    def fault(self, i: int) -> str | None:
        """See ``Examples``."""
        try:
            read_image(self.files[i], self.channels, self._called(i))
        except RltrError as error:
            return str(error)
        return None

    def _called(self, i: int) -> str:
        """What messages call an image: the whole path, where it has one."""
        file = self.files[i]
        return str(file) if isinstance(file, Path) else self.names[i]

    def _prepare(self, i: int) -> Float[Tensor, "channels height width"]:
        """One image as the model takes it."""
        try:
            image = read_image(self.files[i], self.channels, self._called(i))
        except RltrError as error:
            raise RltrError(f"{error}; replace or remove it, or leave such images out: data.bad_inputs=skip") from error
        # The image has the model's channels already; a processor that makes everything RGB would undo grey.
        values: Tensor = self.processor(images=[image], do_convert_rgb=False, return_tensors="pt")["pixel_values"][0]
        return values


def _per_channel(numbers: float | Sequence[float]) -> Float[Tensor, "channels 1 1"]:
    return torch.as_tensor(numbers, dtype=torch.float32).view(-1, 1, 1)


def read_image(file: ImageFile, channels: int, name: str) -> Image.Image:
    """Read an image, upright, as grey (``channels`` 1) or RGB (3).

    Raises:
        RltrError: if it is no image, is damaged, or has more than 8 bits per channel (PIL would clip those to white);
            with its ``name``.
    """
    try:
        with Image.open(_stream(file)) as opened:
            image = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RltrError(f"{name} cannot be read as an image ({reason})") from error
    if image.mode.startswith(("I", "F")):
        raise RltrError(f"{name} has more than 8 bits per channel (mode {image.mode}); convert it to an 8-bit image")
    return image.convert("L" if channels == 1 else "RGB")


def _stream(file: ImageFile) -> Path | str | io.BytesIO:
    if isinstance(file, Path):
        return file
    content, path = (file or {}).get("bytes"), (file or {}).get("path")
    if content is None and path is None:
        raise ValueError("there is none")
    return io.BytesIO(content) if content is not None else str(path)


def load_images(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read a folder of images, one subfolder per class.

    See :func:`rltr.tasks.class_folders.read_class_folders`; what is not in splits is divided by ``options.fractions``.
    For a head that predicts a number, a folder's name is that number.

    Raises:
        RltrError: if the folder holds nothing of that kind, a class is empty, the classes do not fit the model's head,
            or the model's image processor cannot be loaded.
    """
    return image_task(model, data, source, options, partial(read_labels, config=model.config))


def load_image_tables(model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions) -> Task:
    """Take images from tables, by split, each with a column of images and one of labels.

    Raises:
        RltrError: if a column is missing or holds something else, the labels do not fit the model's head, or the
            model's image processor cannot be loaded.
    """
    return image_table_task(model, tables, source, options, partial(read_labels, config=model.config))


def image_task(
    model: PreTrainedModel,
    data: Path,
    source: str,
    options: DataOptions,
    read: Callable[[Iterable[str]], Labelling],
    kind: str = "image",
) -> Task:
    """Read a folder of images for a task of some kind, one subfolder per class, whose names ``read`` understands."""
    files = read_class_folders(data, SUFFIXES, "images", options)
    processor, channels = load_processor(model, source)
    labelling = read(name for split in files.values() for name in split)

    def examples(split: str) -> ImageExamples:
        pairs = [(path, name) for name, paths in files[split].items() for path in paths]
        paths, labels = [path for path, _ in pairs], labelling([name for _, name in pairs])
        names = [path.relative_to(data).as_posix() for path in paths]
        made = ImageExamples(paths, labels, names, labelling.classes, processor, channels)
        made.goal = labelling.goal
        return made

    return assemble(list(files), examples, kind, options, data)


def image_table_task(
    model: PreTrainedModel,
    tables: Mapping[str, Table],
    source: str,
    options: DataOptions,
    read: Callable[[Iterable[str]], Labelling],
    kind: str = "image",
) -> Task:
    """Take images from tables for a task of some kind, with labels that ``read`` understands."""
    processor, channels = load_processor(model, source)
    columns = {split: image_column(table, options) for split, table in tables.items()}
    labelling, labels = read_table_labels(tables, options.label_column, read)

    def examples(split: str) -> ImageExamples:
        column, identity = columns[split]
        own, names = labelling(labels[split]), tables[split].places()
        made = ImageExamples(column, own, names, labelling.classes, processor, channels, identity=identity)
        made.goal = labelling.goal
        return made

    return assemble(list(tables), examples, kind, options, next(iter(tables.values())).data)


def image_column(table: Table, options: DataOptions) -> tuple[Sequence[ImageFile], str | None]:
    """The images of a table, and a digest of them all.

    Raises:
        RltrError: if there is no such column, or it holds something else.
    """
    column = table.images(options.image_column)
    # A table that holds only paths does not tell when a file changes: then there is no digest.
    inside = (column[0] or {}).get("bytes") is not None
    return column, digest([table.fingerprint, options.image_column]) if inside else None


def load_processor(model: PreTrainedModel, source: str) -> tuple[Any, int]:
    """The model's image processor, and how many channels it sees.

    Raises:
        RltrError: if it cannot be loaded, or the channels are neither grey nor RGB.
    """
    # Only PIL is required: the torchvision form of a processor differs in speed, and not in what it is for.
    processor = load_part(AutoImageProcessor, source, "image processor", "a preprocessor_config.json", backend="pil")
    channels = getattr(model.config, "num_channels", 3)
    if channels not in (1, 3):
        raise RltrError(f"the model takes {channels} channels per pixel; images have 1 (grey) or 3 (RGB)")
    return processor, channels
