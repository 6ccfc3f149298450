"""Labels from a table's column: one for each record, or a list of them, as class names or as numbers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from rltr.errors import RltrError
from rltr.recipe.data_options import OR_WITHOUT
from rltr.tasks.goals.heads import Labelling, Reader, join_labels
from rltr.tasks.goals.numbering import NAMES, WHOLE_NUMBERS, WRITTEN, Way, numbers_of
from rltr.tasks.read.tables import Table, each, field_fault

Written: TypeAlias = str | list[str]
"""A label as text, or a list of them."""
log = logging.getLogger(__name__)
Fitted = TypeVar("Fitted")
Fit: TypeAlias = Callable[[dict[str, list[Written]], Sequence[Way]], Fitted]
"""Called with the labels of all splits, and the ways in which classes may be numbered."""


def fit_labels(
    tables: Mapping[str, Table], column: str, fit: Fit[Fitted], or_else: str = OR_WITHOUT
) -> tuple[Fitted, dict[str, list[Written]]]:
    """What ``fit`` makes of the labels of all splits, and these labels, as they are written.

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
    values = {split: list(each(own.column(column, "data.label_column", or_else))) for split, own in tables.items()}
    for split, table in tables.items():
        for place, value in zip(table.places, values[split], strict=True):
            if fault := field_fault(value, lists=True):
                raise RltrError(f"{place}: {column!r} {fault}; see data.label_column")
    numbers = {split: [_written(value) for value in own] for split, own in values.items()}
    ways = next(iter(tables.values())).ways
    if ways is not None:
        return fit(numbers, ways), numbers
    known = {split: names for split, table in tables.items() if (names := _class_names(table.features[column]))}
    if not known:
        every = (value if isinstance(value, list) else [value] for own in values.values() for value in own)
        named = any(isinstance(one, str) for parts in every for one in parts)
        return fit(numbers, WRITTEN if named else WHOLE_NUMBERS), numbers
    if known.keys() == tables.keys():
        by_name = {split: [_written(value, known[split]) for value in own] for split, own in values.items()}
        try:
            return fit(by_name, NAMES), by_name
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
    return fitted, numbers


def read_table_labels(
    tables: Mapping[str, Table], column: str, read: Reader, or_else: str = OR_WITHOUT
) -> tuple[Labelling, dict[str, list[str]]]:
    """How the labels of tables are read, and the labels as text by split; a list holds several labels of one input.

    Raises:
        RltrError: see :func:`fit_labels`.
    """

    def fit(written: dict[str, list[Written]], ways: Sequence[Way]) -> Labelling:
        return read((label for labels in written.values() for label in map(_joined, labels)), ways)

    labelling, written = fit_labels(tables, column, fit, or_else)
    return labelling, {split: list(map(_joined, labels)) for split, labels in written.items()}


def _joined(label: Written) -> str:
    return label if isinstance(label, str) else join_labels(label)


def _class_names(feature: Any) -> list[str]:
    """The names of a ``ClassLabel``, or of those in a list; none of another feature."""
    return list(getattr(getattr(feature, "feature", feature), "names", None) or [])


def _written(value: Any, names: Sequence[str] = ()) -> Written:
    """A label as text: the name of its number, if there are ``names``."""
    if isinstance(value, list):
        return [str(_written(part, names)) for part in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value).strip()
