"""Labels from a table's column: one for each record, or a list of them, as class names or as numbers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from rltr.errors import RltrError
from rltr.tasks.goals.heads import Labelling, Reader, join_labels
from rltr.tasks.goals.numbering import NAMES, WHOLE_NUMBERS, WRITTEN, Way, numbers_of
from rltr.tasks.options import OR_WITHOUT
from rltr.tasks.read.tables import Table

Written: TypeAlias = str | list[str]
"""A label as people would write it, or a list of such."""
log = logging.getLogger(__name__)
Fitted = TypeVar("Fitted")


def fit_labels(
    tables: Mapping[str, Table],
    column: str,
    fit: Callable[[dict[str, list[Written]], Sequence[Way]], Fitted],
    or_else: str = OR_WITHOUT,
) -> Fitted:
    """What ``fit`` makes of the labels of all splits.

    A column of ``ClassLabel`` has names and numbers: its names count if they are the head's, and otherwise its numbers,
    as everywhere in Hugging Face's libraries; that is said. A name that is a numeral is still a name, not a number.

    Args:
        tables: by split.
        column: of the labels.
        fit: called with the labels by split and how classes may be numbered; refuses labels that do not fit the head
            with an ``RltrError``.
        or_else: what else can be done where there is no such column.

    Raises:
        RltrError: if there is no such column, it holds anything else than strings, numbers and lists of them, neither
            names nor numbers fit, or the splits' numbers are of different classes.
    """
    numbers: dict[str, list[Written]] = {}
    names: dict[str, list[Written]] = {}
    known: dict[str, list[str]] = {}
    are_numbers = True
    for split, table in tables.items():
        values = list(table.column(column, "data.label_column", or_else))
        for i, value in enumerate(values):
            if not all(map(_is_label, value)) if isinstance(value, list) else not _is_label(value):
                raise RltrError(
                    f"{table.place(i)}: {column!r} must be a string or a number, or a list of them, not {value!r}; see "
                    "data.label_column"
                )
            are_numbers &= not any(isinstance(one, str) for one in (value if isinstance(value, list) else [value]))
        numbers[split] = [_written(value, None) for value in values]
        feature = table.rows.features[column]
        own = getattr(getattr(feature, "feature", feature), "names", None)
        if own is not None:
            known[split] = list(own)
            names[split] = [_written(value, own) for value in values]
    if not known:
        return fit(numbers, WHOLE_NUMBERS if are_numbers else WRITTEN)
    if known.keys() == tables.keys():
        try:
            return fit(names, NAMES)
        except RltrError:
            pass  # no names that the head knows; what is said of the numbers tells more
    first = next(iter(known.values()))
    for split, own in known.items():
        if own != first:
            raise RltrError(
                f"the classes of {split} ({', '.join(own[:12])}) have other numbers than those before it "
                f"({', '.join(first[:12])}), and the model knows them by neither; give all splits the same features"
            )
    fitted = fit(numbers, numbers_of(first))
    log.warning(
        "the data's classes (%s) are not called as the model's: they are taken by their numbers, 0 to %d",
        ", ".join(first[:12]),
        len(first) - 1,
    )
    return fitted


def read_table_labels(
    tables: Mapping[str, Table], column: str, read: Reader, or_else: str = OR_WITHOUT
) -> tuple[Labelling, dict[str, list[str]]]:
    """How the labels of tables are read, and what is written there by split; lists are several labels of one input.

    Raises:
        RltrError: see :func:`fit_labels`.
    """

    def fit(written: dict[str, list[Written]], ways: Sequence[Way]) -> tuple[Labelling, dict[str, list[str]]]:
        joined = {
            split: [label if isinstance(label, str) else join_labels(label) for label in labels]
            for split, labels in written.items()
        }
        return read((label for labels in joined.values() for label in labels), ways), joined

    return fit_labels(tables, column, fit, or_else)


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
