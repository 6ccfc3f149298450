"""Tables: the records of one split by column, from any kind of file, folder or data set."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rltr.errors import RltrError
from rltr.tasks.examples.base import digest
from rltr.tasks.examples.tokenizer import encodable
from rltr.tasks.goals.numbering import Way
from rltr.tasks.read.stored_files import StoredFile

CHUNK = 1_000
"""Number of values of a column that are read at a time; ``datasets`` is far slower with single values."""
STRINGS = ("string", "large_string", "string_view")
EMPTY = "is empty; fill it in or remove the record"
HALF = "contains half of a character (a lone surrogate, as in \\ud83d), invalid Unicode; write whole characters"


@dataclass(frozen=True)
class Table:
    """The records of one split.

    Args:
        data: how messages refer to the data set.
        columns: by name, each with one value per record.
        places: how messages refer to each record, such as file and line.
        names: a short name of each record, for the gallery.
        features: the type of each column, from ``datasets``; empty for text files, which have no types.
        ways: the numberings of classes to try; None if they depend on the column (see :mod:`rltr.tasks.read.labels`).
        fingerprint: the fingerprint of the data set in ``datasets``.
    """

    data: str
    columns: Mapping[str, Sequence[Any]]
    places: Sequence[str]
    names: Sequence[str]
    features: Mapping[str, Any] = field(default_factory=dict)
    ways: Sequence[Way] | None = None
    fingerprint: str | None = None

    def __len__(self) -> int:
        """Number of records."""
        return len(self.places)

    def column(self, name: str, setting: str, or_else: str = "") -> Sequence[Any]:
        """A column; its values are read from disk on access.

        Args:
            name: name of the column.
            setting: the field of a recipe that names the column, for the error message.
            or_else: advice that is appended to the error message.

        Raises:
            RltrError: if there is no such column.
        """
        if name not in self.columns:
            raise no_column(self.data, name, self.columns, setting, or_else)
        return self.columns[name]

    def files(self, name: str, what: str, setting: str) -> tuple[Sequence[StoredFile], str | None]:
        """A column of encoded images or sounds, and a digest of it.

        The digest is None if the table holds only paths, because it would not notice that a file changes.

        Args:
            name: name of the column.
            what: ``images`` or ``sounds``.
            setting: the field of a recipe that names the column.

        Raises:
            RltrError: if there is no such column, or it has another type.
        """
        files, own = self.column(name, setting), self.features.get(name)
        if own is None:
            return files, None
        is_binary = str(getattr(own, "dtype", "")) in ("binary", "large_binary")
        is_file = isinstance(own, Mapping) and set(own) == {"bytes", "path"}
        if type(own).__name__ != {"images": "Image", "sounds": "Audio"}[what] and not is_binary and not is_file:
            raise RltrError(f"{self.data}: the column {name!r} holds {own}, not {what}; see {setting}")
        inside = isinstance(files[0], bytes) or (isinstance(files[0], Mapping) and files[0].get("bytes") is not None)
        return files, digest([str(self.fingerprint), name]) if inside else None

    def texts(self, name: str, may_lack: bool) -> Sequence[str | None]:
        """A column of texts; numbers in text files are read as texts.

        Args:
            name: name of the column.
            may_lack: whether to accept texts that are missing, blank or invalid Unicode; they are left out later.

        Raises:
            RltrError: if there is no such column, it has another type, or a text cannot be used.
        """
        column, own = self.column(name, "data.text_column"), self.features.get(name)
        if own is not None and getattr(own, "dtype", None) not in STRINGS:
            raise RltrError(f"{self.data}: the column {name!r} holds {own}, not texts")
        for i, value in enumerate(each(column)):
            blank = value is None or not str(value).strip() or value != value
            fault = EMPTY if value is None and own is not None else field_fault(value)
            if fault and not (may_lack and (blank or fault == HALF)):
                cure = ", or leave such texts out: data.bad_inputs=skip" if fault in (EMPTY, HALF) else ""
                raise RltrError(f"{self.places[i]}: {name!r} {fault}{cure}")
        return column if own is not None else ["" if text is None or text != text else str(text) for text in column]


def each(column: Sequence[Any]) -> Iterator[Any]:
    """Iterate over the values of a column, read in chunks."""
    for start in range(0, len(column), CHUNK):
        yield from column[start : start + CHUNK]


def no_column(where: str, name: str, known: Iterable[str], setting: str, or_else: str = "") -> RltrError:
    """Create the error for a missing column.

    Args:
        where: the data set, or the record in it.
        name: name of the column.
        known: the columns that exist.
        setting: the field of a recipe that names the column.
        or_else: advice that is appended to the message.
    """
    return RltrError(
        f"{where}: there is no column {name!r}; there are {', '.join(map(repr, known))}; name one of them with "
        f"{setting}{or_else}"
    )


def field_fault(value: object, lists: bool = False) -> str | None:
    """Why a text or a label cannot be used; None if it can.

    Args:
        value: the value in a record.
        lists: whether a list of texts or labels is accepted.
    """
    for part in value if lists and isinstance(value, list) else [value]:
        if isinstance(part, bool) or not isinstance(part, str | int | float) or part != part:  # pandas writes NaN
            allowed = "a string or a number" + ", or a list of them" * lists
            return f"must be {allowed}, not {json.dumps(value, default=str)[:80]}"
        if not str(part).strip():
            return EMPTY
        if not encodable(str(part)):
            return HALF
    return None
