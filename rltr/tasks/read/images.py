"""Images from one folder per class (or per number), or from a table with a column of them."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.examples.base import Task
from rltr.tasks.examples.images import ImageExamples
from rltr.tasks.goals.heads import Reader, label_reader
from rltr.tasks.goals.numbering import FOLDERS
from rltr.tasks.options import OR_WITHOUT, DataOptions
from rltr.tasks.read.class_folders import read_class_folders
from rltr.tasks.read.image_files import suffixes
from rltr.tasks.read.processors import load_part
from rltr.tasks.read.splits import assemble
from rltr.tasks.read.table_labels import read_table_labels
from rltr.tasks.read.tables import Table


def load_images(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read a folder of images, one subfolder per class.

    See :func:`rltr.tasks.read.class_folders.read_class_folders`; what is not in splits is divided by
    ``options.fractions``.
    For a head that predicts a number, a folder's name is that number.

    Raises:
        RltrError: if the folder holds nothing of that kind, a class is empty, the classes do not fit the model's head,
            or the model's image processor cannot be loaded.
    """
    return image_task(model, data, source, options, label_reader(model.config))


def load_image_tables(model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions) -> Task:
    """Take images from tables, by split, each with a column of images and one of labels.

    Raises:
        RltrError: if a column is missing or holds something else, the labels do not fit the model's head, or the
            model's image processor cannot be loaded.
    """
    return image_table_task(model, tables, source, options, label_reader(model.config))


def image_task(
    model: PreTrainedModel,
    data: Path,
    source: str,
    options: DataOptions,
    read: Reader,
    kind: str = "image",
    or_else: str = OR_WITHOUT,
) -> Task:
    """Read a folder of images for a task of some kind, one subfolder per class, whose names ``read`` understands."""
    files = read_class_folders(data, suffixes(), "images", options, or_else)
    processor, channels = load_processor(model, source)
    labelling = read((name for split in files.values() for name in split), FOLDERS)

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
    read: Reader,
    kind: str = "image",
    or_else: str = OR_WITHOUT,
) -> Task:
    """Take images from tables for a task of some kind, with labels that ``read`` understands."""
    processor, channels = load_processor(model, source)
    columns = {split: table.images(options.image_column) for split, table in tables.items()}
    labelling, labels = read_table_labels(tables, options.label_column, read, or_else)

    def examples(split: str) -> ImageExamples:
        column, identity = columns[split]
        own, names = labelling(labels[split]), tables[split].places()
        made = ImageExamples(column, own, names, labelling.classes, processor, channels, identity=identity)
        made.goal = labelling.goal
        return made

    return assemble(list(tables), examples, kind, options, next(iter(tables.values())).data)


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
