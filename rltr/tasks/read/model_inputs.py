"""Separate model inputs from labels in arrays by name, and check both."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.recipe.data_options import DataOptions
from rltr.tasks.examples.arrays import Rows
from rltr.tasks.examples.tokenizer import position_limit
from rltr.tasks.goals.heads import SEPARATOR

LABELS = "labels"
"""The usual name of labels in processors and collators, used if ``label_column`` is missing."""


def label_key(item: Mapping[str, Any], where: str, options: DataOptions) -> str:
    """The key of the labels in ``item``.

    Raises:
        RltrError: if there is none; the message begins with ``where``.
    """
    for key in (options.label_column, LABELS):
        if key in item:
            return key
    raise RltrError(f"{where}: there is no {options.label_column!r}; there are {', '.join(map(repr, item))}")


def as_array(values: Any) -> NDArray[Any]:
    """Convert to an array; floating-point values become float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    array = np.asarray(values)
    return array.astype(np.float32, copy=False) if np.issubdtype(array.dtype, np.floating) else array


def take_apart(
    model: PreTrainedModel, arrays: Mapping[str, Any], where: str, options: DataOptions
) -> tuple[dict[str, Rows], list[str], bool]:
    """Separate the inputs of one split from its labels, and check them against each other and the model.

    Returns:
        The inputs by name, the labels as texts, and whether the labels were numbers.

    Raises:
        RltrError: if an input is not an argument of the model, the main input is missing, the numbers of rows and
            labels differ, labels have the wrong type or shape, or tokens do not fit the model; the message begins with
            ``where``.
    """
    key = label_key(arrays, where, options)
    labels = as_array(arrays[key])
    written = _written(model, labels, f"{where}: {key!r}")
    inputs = {name: _rows(rows) for name, rows in arrays.items() if name != key}
    known = set(input_names(model))
    if unknown := sorted(set(inputs) - known):
        raise RltrError(
            f"{where}: {', '.join(unknown)} is not an input of {type(model).__name__}; it takes "
            f"{', '.join(sorted(known))}"
        )
    if model.main_input_name not in inputs:
        raise RltrError(f"{where}: there is no {model.main_input_name}; there are {', '.join(map(repr, arrays))}")
    counts = {name: len(rows) for name, rows in {key: labels, **inputs}.items()}
    if len(set(counts.values())) != 1 or not len(labels):
        raise RltrError(f"{where}: inputs and labels must have the same number of rows, at least one; got {counts}")
    ragged = [name for name, rows in inputs.items() if not isinstance(rows, np.ndarray)]
    if ragged and model.main_input_name != "input_ids":
        raise RltrError(
            f"{where}: rows of {', '.join(ragged)} have different shapes; the processor must pad or resize them"
        )
    pixels = inputs.get("pixel_values")
    if isinstance(pixels, np.ndarray) and pixels.dtype.kind != "f":
        raise RltrError(
            f"{where}: pixel_values are {pixels.dtype}, so they were likely not preprocessed; pass the floating-point "
            "output of the model's own image processor"
        )
    if "input_ids" in inputs:
        _check_tokens(model, inputs["input_ids"], where)
    return inputs, written, labels.dtype.kind != "U"


def _written(model: PreTrainedModel, labels: NDArray[Any], what: str) -> list[str]:
    """Labels as texts, as they would be in a file: a name or a number, or several of them."""
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
            f"{what} must be 0 or 1 for each of the {model.config.num_labels} classes of the model's multi-label head; "
            f"their shape is {labels.shape}"
        )
    return [SEPARATOR.join(map(str, np.flatnonzero(row))) for row in labels]


def _rows(values: Any) -> Rows:
    """One array, or a list of arrays if their shapes differ; numpy gives such rows as an array of objects."""
    if isinstance(values, np.ndarray) and values.dtype == object:
        values = values.tolist()
    if isinstance(values, list) and len({np.shape(row) for row in values}) > 1:
        return [as_array(row) for row in values]
    return as_array(values)


def input_names(model: PreTrainedModel) -> list[str]:
    """Argument names of a model's ``forward``, without labels."""
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD and p.name != LABELS]


def _check_tokens(model: PreTrainedModel, ids: Rows, where: str) -> None:
    table, limit = model.get_input_embeddings(), position_limit(model)
    for i, row in enumerate(ids):
        if not isinstance(row, np.ndarray) or row.dtype.kind not in "iu" or row.ndim != 1:
            raise RltrError(f"{where}: input_ids must be whole numbers, one row of tokens for each example")
        if limit is not None and len(row) > limit:
            raise RltrError(
                f"{where}, row {i}: {len(row)} tokens are more than the {limit} that the model has positions for; "
                "truncate when tokenizing: truncation=True, max_length"
            )
        if isinstance(table, nn.Embedding) and len(row) and not 0 <= row.min() <= row.max() < table.num_embeddings:
            outside = row.max() if row.min() >= 0 else row.min()
            raise RltrError(
                f"{where}, row {i}: token {outside} is not in the model's vocabulary, "
                f"0 to {table.num_embeddings - 1}; likely cause: another model's tokenizer"
            )
