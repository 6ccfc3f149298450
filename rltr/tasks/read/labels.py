"""Read labels from a column of a table: one label or a list of labels per record, as class names or numbers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from rltr.errors import RltrError
from rltr.recipe.data_options import OR_WITHOUT
from rltr.tasks.goals.heads import Labelling, LabelReader, join_labels
from rltr.tasks.goals.numbering import NAMES, WHOLE_NUMBERS, WRITTEN, Way, numbers_of
from rltr.tasks.read.tables import Table, each, field_fault

Written: TypeAlias = str | list[str]
"""A label as text, or a list of them."""
log = logging.getLogger(__name__)
Fitted = TypeVar("Fitted")
Fit: TypeAlias = Callable[[dict[str, list[Written]], Sequence[Way]], Fitted]
"""A function that is called with the labels of all splits and the numberings of classes to try."""


def fit_labels(
    tables: Mapping[str, Table], column: str, fit: Fit[Fitted], or_else: str = OR_WITHOUT
) -> tuple[Fitted, dict[str, list[Written]]]:
    """Read the labels of all splits as texts, and call ``fit`` with them.

    A ``ClassLabel`` column has names and class indices. Its names are used if the head has the same ones. Otherwise its
    indices are used, as everywhere in Hugging Face's libraries, and a warning is logged. A class name such as "3" in a
    ``ClassLabel`` is read as a name, not as an index.

    Args:
        tables: by split.
        column: name of the column of labels.
        fit: is called with the labels by split and the numberings of classes to try; it raises an ``RltrError`` if
            labels do not fit the head.
        or_else: advice that is appended to the error message if the column is missing.

    Returns:
        The result of ``fit``, and the labels by split, as texts.

    Raises:
        RltrError: if the column is missing, it has values other than strings, numbers and lists of them, neither names
            nor numbers fit, or the class indices of the splits have different meanings.
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
            pass  # the head has other names; if the indices do not fit either, their error message is more useful
    first = next(iter(known.values()))
    for split, own in known.items():
        if own != first:
            raise RltrError(
                f"the classes of {split} ({', '.join(own[:12])}) differ from those of the split before it "
                f"({', '.join(first[:12])}), and neither are the model's; give all splits the same features"
            )
    fitted = fit(numbers, numbers_of(first))
    log.warning(
        "the data's class names (%s) are not the model's: the class indices 0 to %d are used instead",
        ", ".join(first[:12]),
        len(first) - 1,
    )
    return fitted, numbers


def read_table_labels(
    tables: Mapping[str, Table], column: str, read: LabelReader, or_else: str = OR_WITHOUT
) -> tuple[Labelling, dict[str, list[str]]]:
    """Find the parser for the labels of tables; return it, and the labels as texts by split.

    A list in the column holds several labels of one input.

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
    """The class names of a ``ClassLabel`` feature or a list of such; empty for any other feature."""
    return list(getattr(getattr(feature, "feature", feature), "names", None) or [])


def _written(value: Any, names: Sequence[str] = ()) -> Written:
    """A label as text; with ``names``, a class index is replaced by its name."""
    if isinstance(value, list):
        return [str(_written(part, names)) for part in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value).strip()
