"""Labels from a table's column: one for each record, or a list of them, as class names or as numbers."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from rltr.errors import RltrError
from rltr.tasks.heads import SEPARATOR, Labelling
from rltr.tasks.tables import Table

Written: TypeAlias = str | list[str]
"""A label as people would write it, or a list of such."""
log = logging.getLogger(__name__)
Fitted = TypeVar("Fitted")


def fit_labels(tables: Mapping[str, Table], column: str, fit: Callable[[dict[str, list[Written]]], Fitted]) -> Fitted:
    """What ``fit`` makes of the labels of all splits.

    A column of ``ClassLabel`` has names and numbers: its names count if they are the head's, and otherwise its numbers,
    as everywhere in Hugging Face's libraries; that is said.

    Args:
        tables: by split.
        column: of the labels.
        fit: called with the labels by split; refuses those that do not fit the head with an ``RltrError``.

    Raises:
        RltrError: if there is no such column, it holds anything else than strings, numbers and lists of them, or
            neither names nor numbers fit.
    """
    numbers: dict[str, list[Written]] = {}
    names: dict[str, list[Written]] = {}
    known: list[str] | None = None
    for split, table in tables.items():
        values = list(table.column(column, "data.label_column"))
        for i, value in enumerate(values):
            if not all(map(_is_label, value)) if isinstance(value, list) else not _is_label(value):
                raise RltrError(
                    f"{table.place(i)}: {column!r} must be a string or a number, or a list of them, not {value!r}; see "
                    "data.label_column"
                )
        numbers[split] = [_written(value, None) for value in values]
        feature = table.rows.features[column]
        known = getattr(getattr(feature, "feature", feature), "names", None)
        if known is not None:
            names[split] = [_written(value, known) for value in values]
    if known is not None and len(names) == len(tables):
        try:
            return fit(names)
        except RltrError:
            fitted = fit(numbers)
        log.warning(
            "the data's classes (%s) are not called as the model's: they are taken by their numbers, 0 to %d",
            ", ".join(known[:12]),
            len(known) - 1,
        )
        return fitted
    return fit(numbers)


def read_table_labels(
    tables: Mapping[str, Table], column: str, read: Callable[[Iterable[str]], Labelling]
) -> tuple[Labelling, dict[str, list[str]]]:
    """How the labels of tables are read, and what is written there by split; lists are several labels of one input.

    Raises:
        RltrError: see :func:`fit_labels`.
    """

    def fit(written: dict[str, list[Written]]) -> tuple[Labelling, dict[str, list[str]]]:
        joined = {
            split: [label if isinstance(label, str) else SEPARATOR.join(label) for label in labels]
            for split, labels in written.items()
        }
        return read(label for labels in joined.values() for label in labels), joined

    return fit_labels(tables, column, fit)


def _is_label(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and bool(str(value).strip())


def _written(value: Any, names: list[str] | None) -> Written:
    if isinstance(value, list):
        return [_one(part, names) for part in value]
    return _one(value, names)


def _one(value: Any, names: list[str] | None) -> str:
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value).strip()
