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
from rltr.tasks.read.file_search import entries
from rltr.tasks.read.model_inputs import as_array, label_key, take_apart
from rltr.tasks.read.splits import WHOLE, assemble, choose_splits, find_split_files, is_split
from rltr.tasks.read.spool import Spool


def holds_arrays(data: Path, options: DataOptions) -> bool:
    """Whether a file or folder is for :func:`open_arrays`."""
    if data.is_dir():
        return any(is_split(path.stem, options) for path in entries(data) if path.suffix.lower() == ".npz")
    return data.suffix.lower() == ".npz"


def open_arrays(data: Path, options: DataOptions) -> dict[str, Any]:
    """Read one ``.npz``, or a folder with one for each split (then by split); nothing in it is unpickled.

    They are read whole: arrays in a zip cannot be memory-mapped. For more than fits, give an iterable in Python.

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
    """A task of model inputs that need no processor.

    Args:
        model: what they are for.
        data: arrays (or tensors) by name, the labels among them: a class or a number for each row, or several of them
            ``(rows, labels)``, which for a head with several classes at once are 0 or 1 for every class, as in
            transformers; or an iterable of such mappings, each with one example (a single label, inputs without a batch
            axis) or a batch (as many labels as rows); or either of them by split. Iterables are read once,
            ``options.stream_examples`` examples of each split and no further, from the front: shuffle them before, if
            they are sorted. What was read lies in a temporary file, not in memory.
        kind: of the task.
        options: which name the labels have, how to divide.
        name: of the data, for messages.

    Raises:
        RltrError: if an input is none of the model's, the main one is missing, rows and labels are not equally many,
            labels do not fit the head, tokens do not fit the vocabulary or are more than the model has positions, or
            values are not finite.
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
                    raise RltrError(f"{name}: {fault}; mend it, or leave such rows out: data.bad_inputs=skip")
        return made

    return assemble({split: examples(split) for split in read}, kind, options, name)


def _collect(items: Any, where: str, options: DataOptions) -> dict[str, Any]:
    """The first examples of an iterable, by name."""
    if not isinstance(items, Iterable) or isinstance(items, str | bytes):
        raise RltrError(f"{where}: {type(items).__name__} is no data; give arrays by name, or an iterable of such")
    most = options.stream_examples or STREAM_EXAMPLES
    labels: list[Any] = []
    spools: dict[str, Spool] = {}
    with ExitStack() as stack:
        # An item has at least one example, so there are never more items than examples.
        for number, item in enumerate(islice(items, most)):
            own, inputs = _rows_of(item, f"{where}, item {number}", options)
            if number == 0:
                for name, rows in inputs.items():
                    spools[name] = stack.enter_context(closing(Spool(f"{where}, {name}", rows.dtype)))
            if spools.keys() != inputs.keys():
                raise RltrError(
                    f"{where}, item {number}: it has {', '.join(inputs)}, but those before it {', '.join(spools)}"
                )
            labels += own
            for name, rows in inputs.items():
                for row in rows:
                    spools[name].append(np.asarray(row))  # scalars of numpy are no arrays
            if len(labels) >= most:
                break
        if not labels:
            raise RltrError(f"{where} has no examples; likely cause: an iterator that was read to its end before")
        return {**{name: spool.rows()[:most] for name, spool in spools.items()}, options.label_column: labels[:most]}


def _rows_of(item: Any, where: str, options: DataOptions) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """Labels and inputs of one item of an iterable, one row for each of its examples."""
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
