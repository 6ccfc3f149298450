"""Model inputs that are there already: ``.npz`` files, arrays in Python, and iterables of what a processor gives."""

import inspect
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.examples import Examples, Index, Task, digest
from rltr.tasks.heads import SEPARATOR, read_labels
from rltr.tasks.options import STREAM_EXAMPLES, DataOptions
from rltr.tasks.splits import WHOLE, assemble, choose_splits, is_split
from rltr.tasks.spool import Spool
from rltr.tasks.tokenizer import position_limit

Rows = NDArray[Any] | Sequence[NDArray[Any]]
"""One model input of all examples: one array, or an array for each where they differ in length."""
LABELS = "labels"
"""What processors, collators and ``datasets`` call labels, where ``label_column`` is not there."""


class ArrayExamples(Examples):
    """Model inputs as arrays, in memory or memory-mapped.

    Args:
        labels: what is true of each example.
        names: a short name per example.
        classes: the names of the classes, by label.
        inputs: by the names that the model's ``forward`` gives them. Rows of different length are padded at their end,
            and those of ``input_ids`` get an ``attention_mask``, if there is none.
        padding: the token that fills ``input_ids``; everything else is filled with 0.
    """

    def __init__(
        self,
        labels: Shaped[Tensor, "examples *label"],
        names: Sequence[str],
        classes: Sequence[str],
        inputs: Mapping[str, Rows],
        padding: int = 0,
    ) -> None:
        super().__init__(labels, names, classes)
        self.inputs = dict(inputs)
        self.padding = padding
        ids = self.inputs.get("input_ids")
        if ids is not None and not isinstance(ids, np.ndarray) and "attention_mask" not in self.inputs:
            self.inputs["attention_mask"] = [np.ones(len(row), np.int64) for row in ids]

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: every input, padded to the longest of these rows."""
        chosen = torch.as_tensor(index, dtype=torch.long).tolist()
        made = {
            name: _stack(rows, chosen, self.padding if name == "input_ids" else 0) for name, rows in self.inputs.items()
        }
        mask = made.get("attention_mask")
        if mask is not None and mask.ndim == 2 and "input_ids" in made:
            # Only padding at the end: what stands before a text moves its positions.
            seen = mask.any(0).nonzero()
            width = int(seen.max()) + 1 if len(seen) else 1
            made = {name: rows[:, :width] if rows.shape[:2] == mask.shape else rows for name, rows in made.items()}
        return made

    def lengths(self) -> Sequence[int] | None:
        """See ``Examples``: up to the last place that the attention mask shows."""
        mask = self.inputs.get("attention_mask")
        if mask is None:
            return None
        return [int(np.flatnonzero(row).max(initial=-1)) + 1 for row in mask]

    def fingerprint(self) -> str:
        """See ``Examples``: of all arrays."""
        return digest(
            part
            for name, rows in sorted(self.inputs.items())
            for row in ([rows] if isinstance(rows, np.ndarray) else rows)
            for part in (f"{name} {row.dtype} {row.shape}", np.ascontiguousarray(row).reshape(-1).view(np.uint8))
        )

    def fault(self, i: int) -> str | None:
        """See ``Examples``."""
        for name, rows in self.inputs.items():
            row = rows[i]
            if np.issubdtype(row.dtype, np.floating) and not np.isfinite(row).all():
                return f"{self.names[i]}: {name} holds NaN or infinity"
        mask = self.inputs.get("attention_mask")
        return f"{self.names[i]} has no token" if mask is not None and not mask[i].any() else None

    def picture(self, i: int) -> Image.Image | None:
        """See ``Examples``: pixel values from the smallest as black to the largest as white; None for other inputs."""
        rows = self.inputs.get("pixel_values")
        if rows is None or rows[i].ndim != 3 or rows[i].shape[0] not in (1, 3):
            return None
        values = rows[i].astype(np.float32)
        grey = (255 * (values - values.min()) / max(float(np.ptp(values)), 1e-6)).round().astype(np.uint8)
        return Image.fromarray(grey[0] if len(grey) == 1 else np.ascontiguousarray(grey.transpose(1, 2, 0)))


def _stack(rows: Rows, chosen: Sequence[int], padding: int) -> Shaped[Tensor, "rows ..."]:
    if isinstance(rows, np.ndarray):
        return torch.from_numpy(np.array(rows[chosen]))  # a copy: the array may be a file's, or the user's
    parts = [rows[i] for i in chosen]
    made = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), padding, parts[0].dtype)
    for row, part in zip(made, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(made)


def holds_arrays(data: Path, options: DataOptions) -> bool:
    """Whether a file or folder is for :func:`open_arrays`."""
    if data.is_dir():
        return any(is_split(path.stem, options) for path in data.glob("*.npz"))
    return data.suffix.lower() == ".npz"


def open_arrays(data: Path, options: DataOptions) -> dict[str, Any]:
    """Read one ``.npz``, or a folder with one for each split (then by split); nothing in it is unpickled.

    They are read whole: arrays in a zip cannot be memory-mapped. For more than fits, give an iterable in Python.

    Raises:
        RltrError: if a file is damaged, or a split is missing.
    """
    if data.is_dir():
        found = {path.stem: path for path in sorted(data.glob("*.npz")) if is_split(path.stem, options)}
        files = choose_splits(data, found, options)
    else:
        files = {WHOLE: data}
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
        read[split] = _take_apart(model, arrays, where, options)
    labelling = read_labels((label for _, labels in read.values() for label in labels), model.config)
    padding = getattr(model.config, "pad_token_id", None) or 0

    def examples(split: str) -> ArrayExamples:
        inputs, labels = read[split]
        names = [f"{'row' if split == WHOLE else split}[{i}]" for i in range(len(labels))]
        made = ArrayExamples(labelling(labels), names, labelling.classes, inputs, padding)
        made.goal = labelling.goal
        if options.bad_inputs == "refuse":
            for i in range(len(made)):
                if fault := made.fault(i):
                    raise RltrError(f"{name}: {fault}; mend it, or leave such rows out: data.bad_inputs=skip")
        return made

    return assemble(list(read), examples, kind, options, name)


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
                    spools[name] = stack.enter_context(closing(Spool(rows.dtype)))
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
    key = _label_key(item, where, options)
    labels = _array(item[key])
    inputs = {name: _array(value) for name, value in item.items() if name != key}
    if labels.ndim == 0:
        labels, inputs = labels[None], {name: value[None] for name, value in inputs.items()}
    for name, rows in inputs.items():
        if rows.ndim == 0 or len(rows) != len(labels) or len(labels) == 0:
            raise RltrError(
                f"{where}: {name} has shape {rows.shape} but there are {len(labels)} labels; an item is one "
                "example, with a single label and no batch axis, or a batch with a label for each row"
            )
    return labels.tolist(), inputs


def _label_key(item: Mapping[str, Any], where: str, options: DataOptions) -> str:
    for key in (options.label_column, LABELS):
        if key in item:
            return key
    raise RltrError(f"{where}: there is no {options.label_column!r}; there are {', '.join(map(repr, item))}")


def _array(values: Any) -> NDArray[Any]:
    """As an array, floating values in single precision."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    array = np.asarray(values)
    return array.astype(np.float32, copy=False) if np.issubdtype(array.dtype, np.floating) else array


def _take_apart(
    model: PreTrainedModel, arrays: Mapping[str, Any], where: str, options: DataOptions
) -> tuple[dict[str, Rows], list[str]]:
    """Inputs and labels of one split, checked against each other and against the model."""
    key = _label_key(arrays, where, options)
    labels = _array(arrays[key])
    written = _written(model, labels, f"{where}: {key!r}")
    inputs = {name: _rows(rows) for name, rows in arrays.items() if name != key}
    known = set(input_names(model))
    if unknown := sorted(set(inputs) - known):
        raise RltrError(
            f"{where}: {', '.join(unknown)} is no input of {type(model).__name__}; it takes {', '.join(sorted(known))}"
        )
    if model.main_input_name not in inputs:
        raise RltrError(f"{where}: there is no {model.main_input_name}; there are {', '.join(map(repr, arrays))}")
    counts = {name: len(rows) for name, rows in {key: labels, **inputs}.items()}
    if len(set(counts.values())) != 1 or not len(labels):
        raise RltrError(f"{where}: inputs and labels must be equally many, and at least one; got {counts}")
    ragged = [name for name, rows in inputs.items() if not isinstance(rows, np.ndarray)]
    if ragged and model.main_input_name != "input_ids":
        raise RltrError(
            f"{where}: rows of {', '.join(ragged)} have different shapes; the processor must make them alike"
        )
    pixels = inputs.get("pixel_values")
    if isinstance(pixels, np.ndarray) and pixels.dtype.kind != "f":
        raise RltrError(
            f"{where}: pixel_values are {pixels.dtype}, so likely no processor prepared them; the model was trained on "
            "what its own image processor gives, in floating point"
        )
    if "input_ids" in inputs:
        _check_tokens(model, inputs["input_ids"], where)
    return inputs, written


def _written(model: PreTrainedModel, labels: NDArray[Any], what: str) -> list[str]:
    """Labels as in a file: a name or a number, or several of them."""
    if labels.ndim == 1 and labels.dtype.kind in "iufU":
        return [str(label) for label in labels.tolist()]
    if labels.ndim != 2 or labels.dtype.kind not in "biuf":
        raise RltrError(
            f"{what} must be a name, a number or several numbers for each row, not {labels.dtype} {labels.shape}"
        )
    if model.config.problem_type != "multi_label_classification":
        return [SEPARATOR.join(map(str, row)) for row in labels.tolist()]
    if labels.shape[1] != model.config.num_labels or not np.isin(labels, (0, 1)).all():
        raise RltrError(
            f"{what} must be 0 or 1 for each of the {model.config.num_labels} classes of the model's head, which may "
            f"be right together; their shape is {labels.shape}"
        )
    return [SEPARATOR.join(map(str, np.flatnonzero(row))) for row in labels]


def _rows(values: Any) -> Rows:
    """One array, or a list of arrays where their lengths differ."""
    if isinstance(values, list) and len({np.shape(row) for row in values}) > 1:
        return [_array(row) for row in values]
    return _array(values)


def input_names(model: PreTrainedModel) -> list[str]:
    """What a model's ``forward`` takes by name, but for labels."""
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD and p.name != LABELS]


def _check_tokens(model: PreTrainedModel, ids: Rows, where: str) -> None:
    table, limit = model.get_input_embeddings(), position_limit(model)
    for i, row in enumerate(ids):
        if row.dtype.kind not in "iu" or row.ndim != 1:
            raise RltrError(f"{where}: input_ids must be whole numbers, one row of tokens for each example")
        if limit is not None and len(row) > limit:
            raise RltrError(
                f"{where}, row {i}: {len(row)} tokens are more than the {limit} that the model has positions for; cut "
                "them when they are tokenized: truncation=True, max_length"
            )
        if isinstance(table, nn.Embedding) and len(row) and not 0 <= row.min() <= row.max() < table.num_embeddings:
            outside = row.max() if row.min() >= 0 else row.min()
            raise RltrError(
                f"{where}, row {i}: token {outside} is not in the model's vocabulary, "
                f"0 to {table.num_embeddings - 1}; likely cause: another model's tokenizer"
            )
