"""Ready model inputs: ``.npz`` files, arrays, and iterables of the output of a processor."""

import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.recipe.data_options import STREAM_EXAMPLES, DataOptions
from rltr.tasks.examples.arrays import ArrayExamples
from rltr.tasks.examples.base import Task
from rltr.tasks.goals.heads import read_labels
from rltr.tasks.goals.numbering import WHOLE_NUMBERS, WRITTEN
from rltr.tasks.read.disk_rows import DiskRows
from rltr.tasks.read.file_search import entries
from rltr.tasks.read.model_inputs import as_array, label_key, take_apart
from rltr.tasks.read.splits import WHOLE, assemble, choose_splits, find_split_files, is_split


def holds_arrays(data: Path, options: DataOptions) -> bool:
    """Whether :func:`open_arrays` reads this file or folder."""
    if data.is_dir():
        return any(is_split(path.stem, options) for path in entries(data) if path.suffix.lower() == ".npz")
    return data.suffix.lower() == ".npz"


def open_arrays(data: Path, options: DataOptions) -> dict[str, Any]:
    """Read one ``.npz``, or a folder with one per split (then by split); nothing is unpickled.

    Files are read into memory, because arrays in a zip cannot be memory-mapped. For data that do not fit into memory,
    pass an iterable from Python.

    Raises:
        RltrError: if a file is damaged, or a split is missing.
    """
    files = find_split_files(data, (".npz",), options) if data.is_dir() else {WHOLE: data}
    splits = {}
    for split, path in files.items():
        try:
            with np.load(path, allow_pickle=False) as arrays:
                splits[split] = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise RltrError(
                f"{path} cannot be read as arrays ({error}); write it with numpy.savez, without objects in it"
            ) from error
    return splits.get(WHOLE, splits)


def load_arrays(model: PreTrainedModel, data: Any, kind: str, options: DataOptions, name: str) -> Task:
    """Build a task from model inputs that need no processor.

    Args:
        model: the model.
        data: a mapping of arrays or tensors by name, including the labels; an iterable of such mappings; or one of
            these per split. Labels are a class or a number per row, or several of them ``(rows, labels)``; for a
            multi-label head they are 0 or 1 for every class, as in transformers. An item of an iterable is one example
            (a single label, and inputs without a batch axis) or a batch (one label per row). Iterables are read once,
            from the start, up to ``options.stream_examples`` examples of each split: shuffle sorted ones first. Their
            examples are stored in a temporary file, not in memory.
        kind: the kind of task.
        options: the name of the labels, fractions and seed.
        name: how messages refer to the data.

    Raises:
        RltrError: if an input is not an argument of the model, the main input is missing, the numbers of rows and
            labels differ, labels do not fit the head, tokens are outside of the vocabulary or more than the model has
            positions, or values are not finite.
    """
    splits = {WHOLE: data}
    if isinstance(data, Mapping) and data and all(isinstance(key, str) and is_split(key, options) for key in data):
        splits = choose_splits(name, data, options)
    read = {}
    for split, part in splits.items():
        where = name if split == WHOLE else f"{name}, {split}"
        arrays = dict(part) if isinstance(part, Mapping) else _collect(part, where, options)
        read[split] = take_apart(model, arrays, where, options)
    ways = WHOLE_NUMBERS if all(numbers for _, _, numbers in read.values()) else WRITTEN
    labelling = read_labels((label for _, labels, _ in read.values() for label in labels), model.config, ways)
    padding = getattr(model.config, "pad_token_id", None) or 0

    def examples(split: str) -> ArrayExamples:
        inputs, labels, _ = read[split]
        names = [f"{'row' if split == WHOLE else split}[{i}]" for i in range(len(labels))]
        made = ArrayExamples(labelling(labels), names, labelling.classes, inputs, padding)
        made.goal = labelling.goal
        if options.bad_inputs == "refuse":
            for i in range(len(made)):
                if fault := made.fault(i):
                    raise RltrError(f"{name}: {fault}; correct it, or leave such rows out: data.bad_inputs=skip")
        return made

    return assemble({split: examples(split) for split in read}, kind, options, name)


def _collect(items: Any, where: str, options: DataOptions) -> dict[str, Any]:
    """The first examples of an iterable, by name."""
    if not isinstance(items, Iterable) or isinstance(items, str | bytes):
        raise RltrError(
            f"{where}: cannot read data from an object of type {type(items).__name__}; give a mapping of arrays, or an "
            "iterable of such"
        )
    most = options.stream_examples or STREAM_EXAMPLES
    labels: list[Any] = []
    stored: dict[str, DiskRows] = {}
    with ExitStack() as stack:
        # An item has at least one example, so there are never more items than examples.
        for number, item in enumerate(islice(items, most)):
            own, inputs = _rows_of(item, f"{where}, item {number}", options)
            if number == 0:
                for name, rows in inputs.items():
                    stored[name] = stack.enter_context(closing(DiskRows(f"{where}, {name}", rows.dtype)))
            if stored.keys() != inputs.keys():
                raise RltrError(
                    f"{where}, item {number}: it has {', '.join(inputs)}, but those before it {', '.join(stored)}"
                )
            labels += own
            for name, rows in inputs.items():
                for row in rows:
                    stored[name].append(np.asarray(row))  # numpy scalars are not arrays
            if len(labels) >= most:
                break
        if not labels:
            raise RltrError(f"{where} has no examples; likely cause: an iterator that is already exhausted")
        return {
            **{name: stored_rows.rows()[:most] for name, stored_rows in stored.items()},
            options.label_column: labels[:most],
        }


def _rows_of(item: Any, where: str, options: DataOptions) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """Labels and inputs of one item of an iterable, with one row per example."""
    if not isinstance(item, Mapping):
        raise RltrError(f"{where}: must be a mapping of inputs and a label, not {type(item).__name__}")
    key = label_key(item, where, options)
    labels = as_array(item[key])
    inputs = {name: as_array(value) for name, value in item.items() if name != key}
    if labels.ndim == 0:
        labels, inputs = labels[None], {name: value[None] for name, value in inputs.items()}
    for name, rows in inputs.items():
        if rows.ndim == 0 or len(rows) != len(labels) or len(labels) == 0:
            raise RltrError(
                f"{where}: {name} has shape {rows.shape} but there are {len(labels)} labels; an item is one "
                "example, with a single label and no batch axis, or a batch with a label for each row"
            )
    return labels.tolist(), inputs
