"""Records in files: texts and labels, one record for each line of a CSV, TSV or JSONL file."""

import csv
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rltr.errors import RltrError
from rltr.tasks.examples.tokenizer import encodable
from rltr.tasks.goals.heads import join_labels
from rltr.tasks.options import WITHOUT_LABELS, DataOptions

SUFFIXES = (".csv", ".tsv", ".jsonl")
log = logging.getLogger(__name__)
LONGEST_FIELD = 2**31 - 1
"""Most characters of a field in a table, as many as csv can be told on every system; left alone it reads 131,072."""


class Record(NamedTuple):
    """One line of a file: its text and its label, as written, and where it stands."""

    text: str
    label: str
    place: str


def read_records(path: Path, options: DataOptions) -> Iterator[Record]:
    """Read the text and the label of every record of a file.

    Raises:
        RltrError: naming file and line, if it cannot be read, or a record lacks a text or a label.
    """
    for line, record in read_rows(path, (options.text_column, options.label_column)):
        place = f"{path}, line {line}"
        text = read_text(record, options, place)
        label = record.get(options.label_column)
        if isinstance(label, list):  # several classes or numbers; none of the classes, if it is empty
            yield Record(text, join_labels(label), place)
        else:
            yield Record(text, read_field(record, options.label_column, "data.label_column", place).strip(), place)


def read_text(record: Mapping[str, Any], options: DataOptions, place: str) -> str:
    """The text of a record at ``place``; see :func:`read_field`."""
    return read_field(record, options.text_column, "data.text_column", place, options.bad_inputs == "skip")


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read a file record by record, each with the number of its line; blank lines are passed over, which is said.

    Args:
        path: of the file.
        columns: those that somebody will look at.

    Raises:
        RltrError: naming file and line, if it cannot be read, or one of the columns is there twice.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise RltrError(
            f"{path} is no data file rltr knows; it reads {', '.join(SUFFIXES)}; from a .txt it can {WITHOUT_LABELS}"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            read = _jsonl if path.suffix.lower() == ".jsonl" else _table
            yield from read(path, file, columns)
    except OSError as error:
        raise RltrError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RltrError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def say_blank(path: Path, blank: Sequence[int], end: int) -> None:
    """Say how many ``blank`` lines of a file were passed over before its last record, which is in line ``end``."""
    if within := [line for line in blank if line < end]:
        log.warning("%s: passed over %d blank lines (the first: line %d)", path, len(within), within[0])


def _table(path: Path, file: Any, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(LONGEST_FIELD)  # the process has one for all readers, so it stays
    reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    header, blank, last = None, [], 0
    try:
        for row in reader:
            if not row:
                blank.append(reader.line_num)
            elif header is None:
                header = row
                _refuse_twice(header, columns, f"{path}, line {reader.line_num}")
            elif len(row) != len(header):
                raise RltrError(
                    f"{path}, line {reader.line_num}: not as many fields as the header has "
                    f"({', '.join(header)}); put texts that hold the separator in double quotes"
                )
            else:
                last = reader.line_num
                yield last, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise RltrError(
            f"{path}, line {reader.line_num}: {error}; the file is damaged or no {path.suffix.lower()}"
        ) from error
    say_blank(path, blank, last)


def _jsonl(path: Path, file: Any, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice([name for name, _ in pairs], columns, f"{path}, line {number}")
        return dict(pairs)

    blank, last = [], 0
    for number, line in enumerate(file, 1):
        if not line.strip():
            blank.append(number)
            continue
        try:
            record = json.loads(line, object_pairs_hook=once)
        except json.JSONDecodeError as error:
            raise RltrError(f"{path}, line {number}: no JSON ({error.msg} at column {error.colno})") from error
        except RecursionError:
            raise RltrError(f"{path}, line {number}: no record, but brackets within brackets") from None
        if not isinstance(record, dict):
            raise RltrError(f"{path}, line {number}: every line must be a JSON object with a text and a label")
        last = number
        yield number, record
    say_blank(path, blank, last)


def _refuse_twice(names: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Refuse a column that is there twice, where it is one that counts.

    Raises:
        RltrError: naming it and ``where`` it is.
    """
    for name in columns:
        if names.count(name) > 1:
            raise RltrError(
                f"{where}: there are {names.count(name)} columns called {name!r}, and no saying which one is meant; "
                "rename or remove all but one"
            )


def read_field(record: Mapping[str, Any], column: str, setting: str, where: str, may_lack: bool | None = None) -> str:
    """A text or a label as it is written.

    Args:
        record: all fields, by column.
        column: which one.
        setting: what names it in a recipe.
        where: the record stands, for messages.
        may_lack: whether an empty field is fine, which is given back as ``""``; None where nobody could ask for that.

    Raises:
        RltrError: if there is none, it is neither text nor number, or no Unicode.
    """
    if column not in record:
        or_else = f", or {WITHOUT_LABELS}" if setting == "data.label_column" else ""
        raise RltrError(
            f"{where}: there is no column {column!r}; there are {', '.join(map(repr, record))}; name one of them with "
            f"{setting}{or_else}"
        )
    value = record[column]
    if isinstance(value, float) and math.isnan(value):
        value = None  # so pandas calls what is missing
    if may_lack and (value is None or not str(value).strip()):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RltrError(f"{where}: {column!r} must be a string or a number, not {json.dumps(value)}")
    if not str(value).strip():
        raise RltrError(
            f"{where}: {column!r} is empty; fill it in or remove the record"
            f"{', or leave such texts out: data.bad_inputs=skip' if may_lack is not None else ''}"
        )
    if not may_lack and not encodable(str(value)):
        raise RltrError(
            f"{where}: {column!r} holds half of a character (a lone surrogate, as in \\ud83d), which is no Unicode; "
            f"write whole characters{', or leave such texts out: data.bad_inputs=skip' if may_lack is not None else ''}"
        )
    return str(value)
