"""Image classification from a folder of images per class, or a table with a column of images.

Images are decoded here, in the process that trains. A pool was tried on two cores (128 JPEGs of 500×375, prepared to
224×224; the machine had other work): 12.6 to 13.7 ms per image one by one, 12.7 to 12.8 in two threads, 16.6 to 16.9 in
two processes, which hand back 600 kB for each. Nearly all of it is the processor's resizing.
"""

import io
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.examples import Examples, Index, Task, digest
from rltr.tasks.labels import number_classes
from rltr.tasks.options import DataOptions
from rltr.tasks.source import load_part
from rltr.tasks.splits import WHOLE, assemble, find_splits, is_split
from rltr.tasks.tables import Table, label_names

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
        labels: the class of each.
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
        labels: Int[Tensor, " examples"],
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
        self.cache_bytes = cache_bytes
        self.identity = identity
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._cached_bytes = 0

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
            found = [(path, path.stat()) for path in self.files if isinstance(path, Path)]
            if len(found) != len(self.files):
                return None
            identity = digest(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}" for path, stat in found)
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

    def _prepared(self, i: int) -> Float[Tensor, "channels height width"]:
        """One image as the model takes it, from memory if it was used lately."""
        if i in self._cache:
            self._cache.move_to_end(i)
            return self._cache[i]
        try:
            image = read_image(self.files[i], self.channels, self._called(i))
        except RltrError as error:
            raise RltrError(f"{error}; replace or remove it, or leave such images out: data.bad_inputs=skip") from error
        # The image has the model's channels already; a processor that makes everything RGB would undo grey.
        values = self.processor(images=[image], do_convert_rgb=False, return_tensors="pt")["pixel_values"][0]
        self._cache[i] = values
        self._cached_bytes += values.nbytes
        while self._cached_bytes > self.cache_bytes:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
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


def _processor(model: PreTrainedModel, source: str) -> tuple[Any, int]:
    """The model's image processor, and how many channels it sees."""
    # Only PIL is required: the torchvision form of a processor differs in speed, and not in what it is for.
    processor = load_part(AutoImageProcessor, source, "image processor", "a preprocessor_config.json", backend="pil")
    channels = getattr(model.config, "num_channels", 3)
    if channels not in (1, 3):
        raise RltrError(f"the model takes {channels} channels per pixel; images have 1 (grey) or 3 (RGB)")
    return processor, channels


def load_images(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read a folder of images, one subfolder per class.

    Either ``data/train/CLASS/…``, ``data/test/CLASS/…`` and, unless it shall be cut from train,
    ``data/validation/CLASS/…`` (or ``val``), or ``data/CLASS/…``, which is divided by ``options.fractions``.

    Raises:
        RltrError: if the folder holds nothing of that kind, a class is empty, the classes do not fit the model's head,
            or the model's image processor cannot be loaded.
    """
    if not data.is_dir():
        raise RltrError(f"{data} is not a folder; an image model needs a folder with one subfolder of images per class")
    processor, channels = _processor(model, source)
    folders = _folders(data)
    named = [name for name in options.split_names.values() if name is not None]
    split = bool(folders) and (bool(named) or all(is_split(folder.name, options) for folder in folders))
    roots = find_splits(data, folders, options) if split else {WHOLE: data}
    files = {split: _files_by_class(root) for split, root in roots.items()}
    number, classes = number_classes((name for split in files.values() for name in split), model.config)

    def examples(split: str) -> ImageExamples:
        pairs = [(path, number[name]) for name, paths in files[split].items() for path in paths]
        paths, labels = [path for path, _ in pairs], torch.tensor([label for _, label in pairs])
        names = [path.relative_to(data).as_posix() for path in paths]
        return ImageExamples(paths, labels, names, classes, processor, channels)

    return assemble(list(roots), examples, "image", options, data)


def load_image_tables(model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions) -> Task:
    """Take images from tables, by split, each with a column of images and one of labels.

    Raises:
        RltrError: if a column is missing or holds something else, the labels do not fit the model's head, or the
            model's image processor cannot be loaded.
    """
    processor, channels = _processor(model, source)
    columns = {split: table.images(options.image_column) for split, table in tables.items()}
    labels = label_names(tables, options.label_column, model.config)
    number, classes = number_classes((name for split in labels.values() for name in split), model.config)

    def examples(split: str) -> ImageExamples:
        table = tables[split]
        own, column = torch.tensor([number[name] for name in labels[split]]), columns[split]
        # A table that holds only paths does not tell when a file changes: then there is no fingerprint.
        inside = (column[0] or {}).get("bytes") is not None
        identity = digest([table.fingerprint, options.image_column]) if inside else None
        return ImageExamples(column, own, table.places(), classes, processor, channels, identity=identity)

    return assemble(list(tables), examples, "image", options, next(iter(tables.values())).data)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files_by_class(root: Path) -> dict[str, list[Path]]:
    classes = {
        folder.name: sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        for folder in _folders(root)
    }
    if not classes:
        raise RltrError(f"{root} has no subfolders; it should have one for each class, with that class's images in it")
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise RltrError(
            f"no images in {root / empty[0]} (looked for {' '.join(sorted(SUFFIXES))}); "
            "fill or remove that folder; a data set in splits may only have train, validation and test at its top"
        )
    return classes
