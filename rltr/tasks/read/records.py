"""Records in files: CSV, TSV, JSON lines, and texts of one line each.

``datasets`` reads such files, too, but takes some for what they are not; ``docs/internals/tasks.md`` has the list.
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
"""Files with a label beside each text."""
LONGEST_FIELD = 2**31 - 1
"""Most characters of a field: the largest limit that csv accepts on every system; its default is 131,072."""
Records: TypeAlias = Iterator[tuple[int, Mapping[str, Any]]]
"""The number of each record's line, and its fields by column."""
log = logging.getLogger(__name__)


def open_records(data: Path, options: DataOptions, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Table]:
    """Read one file, or a folder with one for each split (``train``, ``test`` and, maybe, ``validation``); all UTF-8.

    Args:
        data: the file or folder.
        options: the columns, whether there are labels, and what the splits are called.
        suffixes: of the files that count. Without labels, ``.txt`` with one text in each line does, too.

    Raises:
        RltrError: naming file and line, if one is damaged, a column is missing or twice there, or nothing is left.
    """
    suffixes = (".txt", *suffixes) if options.labels == "none" else tuple(suffixes)
    files = find_split_files(data, suffixes, options) if data.is_dir() else {WHOLE: data}
    return {split: read_records(path, options, suffixes) for split, path in files.items()}


def read_records(path: Path, options: DataOptions, suffixes: Sequence[str] = SUFFIXES) -> Table:
    """Read one file; see :func:`open_records`. Blank lines are skipped, with a warning.

    Raises:
        RltrError: see there.
    """
    suffix, settings = path.suffix.lower(), {options.text_column: "data.text_column"}
    if suffix not in suffixes:
        if suffixes == (".jsonl",):
            raise RltrError(f"{path} is no .jsonl; words with a class each come as two lists per record")
        raise RltrError(
            f"{path} is no data file rltr knows; it reads {', '.join(SUFFIXES)}; from a .txt it can {WITHOUT_LABELS}"
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
            raise RltrError(f"{path}, line {number}: no JSON ({error.msg} at column {error.colno})") from error
        except RecursionError:
            raise RltrError(f"{path}, line {number}: no record, but brackets within brackets") from None
        if not isinstance(record, dict):
            raise RltrError(f"{path}, line {number}: every line must be a JSON object with a text and a label")
        yield number, record


def _delimited(path: Path, file: Any, options: DataOptions) -> Records:
    csv.field_size_limit(LONGEST_FIELD)  # the process has one for all readers, so it stays
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
    _warn_blank(path, blank, last)


READERS: dict[str, Callable[[Path, Any, DataOptions], Records]] = {".txt": _texts, ".jsonl": _json_lines}
"""What reads files of each suffix, if not ``_delimited``."""


def _lines(path: Path, file: Any) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, and its number."""
    blank, last = [], 0
    for number, line in enumerate(file, 1):
        if line.strip():
            last = number
            yield number, line
        else:
            blank.append(number)
    _warn_blank(path, blank, last)


def _warn_blank(path: Path, blank: Sequence[int], end: int) -> None:
    """Warn of ``blank`` lines before the last record, which is in line ``end``."""
    if within := [line for line in blank if line < end]:
        log.warning("%s: passed over %d blank lines (the first: line %d)", path, len(within), within[0])


def _refuse_twice(names: Sequence[str], options: DataOptions, where: str) -> None:
    """Refuse text or label columns that are there twice.

    Raises:
        RltrError: naming it and ``where`` it is.
    """
    for name in (options.text_column, options.label_column)[: 1 if options.labels == "none" else 2]:
        if names.count(name) > 1:
            raise RltrError(
                f"{where}: there are {names.count(name)} columns called {name!r}, and no saying which one is meant; "
                "rename or remove all but one"
            )
