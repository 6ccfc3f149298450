"""Read records from CSV, TSV and JSON lines files, and texts from files with one per line.

``datasets`` reads such files as well, but misreads some of them; ``docs/internals/tasks.md`` has the list.
"""

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rltr.errors import RltrError
from rltr.recipe.data_options import OR_WITHOUT, WITHOUT_LABELS, DataOptions
from rltr.tasks.goals.numbering import WRITTEN
from rltr.tasks.read.splits import WHOLE, find_split_files
from rltr.tasks.read.tables import Table, no_column

SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Suffixes of files that have a label for each text."""
LONGEST_FIELD = 2**31 - 1
"""Limit of characters per field: the largest that csv accepts on every system; its default is 131,072."""
Records: TypeAlias = Iterator[tuple[int, Mapping[str, Any]]]
"""The number of each record's line, and its fields by column."""
log = logging.getLogger(__name__)


def open_records(data: Path, options: DataOptions, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Table]:
    """Read one file, or a folder with one file per split (``train``, ``test`` and optionally ``validation``).

    Files must be UTF-8.

    Args:
        data: the file or folder.
        options: the names of the columns and splits, and whether there are labels.
        suffixes: suffixes of the files to read. Without labels, ``.txt`` with one text per line is read as well.

    Raises:
        RltrError: if a file is damaged or empty, or a column is missing or duplicated; the message has file and line.
    """
    suffixes = (".txt", *suffixes) if options.labels == "none" else tuple(suffixes)
    files = find_split_files(data, suffixes, options) if data.is_dir() else {WHOLE: data}
    return {split: read_records(path, options, suffixes) for split, path in files.items()}


def read_records(path: Path, options: DataOptions, suffixes: Sequence[str] = SUFFIXES) -> Table:
    """Read one file; see :func:`open_records`. Blank lines are skipped, with a warning.

    Raises:
        RltrError: as :func:`open_records`.
    """
    suffix, settings = path.suffix.lower(), {options.text_column: "data.text_column"}
    if suffix not in suffixes:
        if suffixes == (".jsonl",):
            raise RltrError(f"{path} is not a .jsonl; words with a class each are given as two lists per record")
        raise RltrError(
            f"rltr cannot read {path} as data; it reads {', '.join(SUFFIXES)}; from a .txt it can {WITHOUT_LABELS}"
        )
    if options.labels != "none":
        settings[options.label_column] = "data.label_column"
    columns: dict[str, list[Any]] = {name: [] for name in settings}
    places = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, record in READERS.get(suffix, _delimited)(path, file, options):
                places.append(f"{path}, line {number}")
                for name, setting in settings.items():
                    if name not in record:
                        or_else = OR_WITHOUT if setting == "data.label_column" else ""
                        raise no_column(places[-1], name, record, setting, or_else)
                    columns[name].append(record[name])
    except OSError as error:
        raise RltrError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RltrError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not places:
        what = "texts" if options.labels == "none" else "records"
        raise RltrError(f"{path} has no {what}; it needs at least one with {' and '.join(map(repr, settings))}")
    return Table(str(path), columns, places, places, ways=WRITTEN)


def _texts(path: Path, file: Any, options: DataOptions) -> Records:
    for number, line in _lines(path, file):
        yield number, {options.text_column: line.strip()}


def _json_lines(path: Path, file: Any, options: DataOptions) -> Records:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice([name for name, _ in pairs], options, f"{path}, line {number}")
        return dict(pairs)

    for number, line in _lines(path, file):
        try:
            record = json.loads(line, object_pairs_hook=once)
        except json.JSONDecodeError as error:
            raise RltrError(f"{path}, line {number}: invalid JSON ({error.msg} at column {error.colno})") from error
        except RecursionError:
            raise RltrError(f"{path}, line {number}: brackets are nested too deep for a record") from None
        if not isinstance(record, dict):
            raise RltrError(f"{path}, line {number}: every line must be a JSON object with a text and a label")
        yield number, record


def _delimited(path: Path, file: Any, options: DataOptions) -> Records:
    csv.field_size_limit(LONGEST_FIELD)  # a global setting of the csv module, so it is not reset
    reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    header, blank, last = None, [], 0
    try:
        for row in reader:
            if not row:
                blank.append(reader.line_num)
            elif header is None:
                header = row
                _refuse_twice(header, options, f"{path}, line {reader.line_num}")
            elif len(row) != len(header):
                raise RltrError(
                    f"{path}, line {reader.line_num}: the number of fields differs from that of the header "
                    f"({', '.join(header)}); put texts that hold the separator in double quotes"
                )
            else:
                last = reader.line_num
                yield last, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise RltrError(
            f"{path}, line {reader.line_num}: {error}; the file is damaged or not a {path.suffix.lower()}"
        ) from error
    _warn_blank(path, blank, last)


READERS: dict[str, Callable[[Path, Any, DataOptions], Records]] = {".txt": _texts, ".jsonl": _json_lines}
"""The reader for each suffix; all others are read by ``_delimited``."""


def _lines(path: Path, file: Any) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, with its number."""
    blank, last = [], 0
    for number, line in enumerate(file, 1):
        if line.strip():
            last = number
            yield number, line
        else:
            blank.append(number)
    _warn_blank(path, blank, last)


def _warn_blank(path: Path, blank: Sequence[int], end: int) -> None:
    """Warn about ``blank`` lines before the last record, which is in line ``end``."""
    if within := [line for line in blank if line < end]:
        log.warning("%s: skipped %d blank lines (the first: line %d)", path, len(within), within[0])


def _refuse_twice(names: Sequence[str], options: DataOptions, where: str) -> None:
    """Raise if the text or label column is duplicated.

    Raises:
        RltrError: with the name of the column; the message begins with ``where``.
    """
    for name in (options.text_column, options.label_column)[: 1 if options.labels == "none" else 2]:
        if names.count(name) > 1:
            raise RltrError(
                f"{where}: there are {names.count(name)} columns called {name!r}, so it is unclear which one is meant; "
                "rename or remove all but one"
            )
