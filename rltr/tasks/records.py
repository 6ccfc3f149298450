"""Records in files: texts and labels, one record for each line of a CSV, TSV or JSONL file."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rltr.errors import RltrError
from rltr.tasks.heads import SEPARATOR
from rltr.tasks.options import WITHOUT_LABELS, DataOptions

SUFFIXES = (".csv", ".tsv", ".jsonl")
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
    for line, record in read_rows(path):
        place = f"{path}, line {line}"
        text = read_field(record, options.text_column, place, options.bad_inputs == "skip")
        label = record.get(options.label_column)
        if isinstance(label, list):  # several classes or numbers; none of the classes, if it is empty
            yield Record(text, SEPARATOR.join(map(str, label)), place)
        else:
            yield Record(text, read_field(record, options.label_column, place).strip(), place)


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read a file record by record, each with the number of its line.

    Raises:
        RltrError: naming file and line, if it cannot be read.
    """
    if path.suffix not in SUFFIXES:
        raise RltrError(
            f"{path} is no data file rltr knows; it reads {', '.join(SUFFIXES)}; from a .txt it can {WITHOUT_LABELS}"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _jsonl(path, file) if path.suffix == ".jsonl" else _table(path, file)
    except OSError as error:
        raise RltrError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RltrError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _table(path: Path, file: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(LONGEST_FIELD)  # the process has one for all readers, so it stays
    reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    try:
        for record in reader:
            if None in record or None in record.values():
                raise RltrError(
                    f"{path}, line {reader.line_num}: not as many fields as the header has "
                    f"({', '.join(reader.fieldnames or [])}); put texts that hold the separator in double quotes"
                )
            yield reader.line_num, record
    except csv.Error as error:
        line = reader.reader.line_num  # reader.line_num is still that of the record before
        raise RltrError(f"{path}, line {line}: {error}; the file is damaged or no {path.suffix}") from error


def _jsonl(path: Path, file: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise RltrError(f"{path}, line {number}: no JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(record, dict):
            raise RltrError(f"{path}, line {number}: every line must be a JSON object with a text and a label")
        yield number, record


def read_field(record: Mapping[str, Any], column: str, where: str, may_lack: bool | None = None) -> str:
    """A text or a label as it is written.

    Args:
        record: all fields, by column.
        column: which one.
        where: the record stands, for messages.
        may_lack: whether an empty field is fine, which is given back as ``""``; None where nobody could ask for that.

    Raises:
        RltrError: if there is none, or it is neither text nor number.
    """
    if column not in record:
        raise RltrError(
            f"{where}: there is no column {column!r}; there are {', '.join(map(repr, record))}; name others with "
            f"data.text_column and data.label_column, or {WITHOUT_LABELS}"
        )
    value = record[column]
    if may_lack and (value is None or not str(value).strip()):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RltrError(f"{where}: {column!r} must be a string or a number, not {json.dumps(value)}")
    if not str(value).strip():
        raise RltrError(
            f"{where}: {column!r} is empty; fill it in or remove the record"
            f"{', or leave such texts out: data.bad_inputs=skip' if may_lack is not None else ''}"
        )
    return str(value)
