"""Compare the same figure in two results of a benchmark: the difference, and how large it could be by chance."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import PARTS, ROWS, Figure, Layout
from rltr.errors import RltrError
from rltr.evaluate.results import read_json


@dataclass(frozen=True)
class Results:
    """What a file holds.

    Attributes:
        name: the benchmark.
        environment: where it was measured.
        settings: of the benchmark.
        tables: rows by their layout's name; one, but for ``benchmarks.gpu``.
    """

    name: str
    environment: Mapping[str, str]
    settings: Mapping[str, Any]
    tables: Mapping[str, tuple[Layout, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Change:
    """A figure before and after.

    Attributes:
        what: was measured, in words.
        figure: of it.
        old: its value before.
        new: its value after.
        noise: how far apart both may be by chance; None where no interval was stored.
    """

    what: str
    figure: Figure
    old: float
    new: float
    noise: float | None

    @property
    def worse_by(self) -> float:
        """How much worse it is, in its own unit; negative if it is better."""
        return self.new - self.old if self.figure.better == "lower" else self.old - self.new

    @property
    def within_noise(self) -> bool:
        """Whether chance alone may have made the difference."""
        return abs(self.worse_by) <= (self.noise or 0.0)

    def fails(self, tolerance: float) -> bool:
        """Whether it is worse by more than the noise and a share of the old value; of ``true``, at all."""
        allowed = 0.0 if self.figure.better == "true" else tolerance * abs(self.old)
        return self.worse_by > (self.noise or 0.0) + allowed

    def verdict(self, tolerance: float) -> str:
        """In words."""
        if self.within_noise:
            return "same" if self.noise is None else "within noise"
        unknown = "" if self.noise is not None or self.figure.better == "true" else ", noise unknown"
        if self.worse_by < 0:
            return f"better{unknown}"
        return f"worse{unknown}" if self.fails(tolerance) else f"worse, tolerated{unknown}"


def read(path: Path) -> Results:
    """What a file holds.

    Raises:
        RltrError: if it is no result of a benchmark or an evaluation, or of one without figures to compare.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RltrError(f"cannot read {path}: {error}. Give JSON files that benchmarks wrote with --out") from error
    if isinstance(data, dict) and "points" in data and "benchmark" not in data:
        evaluation = read_json(path)
        tables = {"evaluation": (ROWS["evaluation"], [vars(point) for point in evaluation.points])}
        return Results("evaluation", evaluation.environment, {}, tables)
    if not isinstance(data, dict) or not data.keys() >= {"benchmark", "environment", "settings"}:
        raise RltrError(f"{path} is no result of a benchmark: give JSON files that benchmarks wrote with --out")
    name = data["benchmark"]
    if "parts" in data:
        tables = {part: (PARTS[part], rows) for part, rows in data["parts"].items() if part in PARTS}
    elif name in ROWS:
        tables = {name: (ROWS[name], data["rows"])}
    else:
        raise RltrError(f"{path} is of {name}, which has no figures to compare; those that have are {', '.join(ROWS)}")
    return Results(name, data["environment"], _settings(data["settings"]), tables)


def _settings(stored: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings by name; some files were put together from several runs, and hold a list of theirs."""
    if isinstance(stored, Mapping):
        return dict(stored)
    values: dict[str, list[Any]] = defaultdict(list)
    for run in stored:
        for name, value in run.items():
            values[name].append(value)
    return dict(values)


def changes(old: Results, new: Results) -> tuple[list[Change], list[str]]:
    """Every figure that both have, and what only one of them has."""
    found: list[Change] = []
    alone: list[str] = []
    for table in dict.fromkeys([*old.tables, *new.tables]):
        layout = (old.tables.get(table) or new.tables[table])[0]
        before, after = (_by_key(layout, results.tables.get(table, (layout, ()))[1]) for results in (old, new))
        alone += [f"only in OLD: {table}, {what}" for what in before if what not in after]
        alone += [f"only in NEW: {table}, {what}" for what in after if what not in before]
        for what, row in before.items():
            if what in after:
                said = what if len(old.tables) == 1 else f"{table}, {what}"
                found += _of_rows(said, layout, row, after[what])
    return found, alone


def _by_key(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows by what was measured, in words; of several with the same, all but the first are numbered."""
    found: dict[str, Mapping[str, Any]] = {}
    seen: dict[str, int] = defaultdict(int)
    for row in rows:
        what = ", ".join(f"{name} {row.get(name)}" for name in layout.key)
        seen[what] += 1
        found[what if seen[what] == 1 else f"{what} ({seen[what]})"] = row
    return found


def _of_rows(what: str, layout: Layout, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for figure in layout.figures:
        before, after = figure.value(old), figure.value(new)
        if before is None or after is None:
            continue
        halves = [figure.noise(old), figure.noise(new)]
        noise = None if None in halves else math.hypot(*(half for half in halves if half is not None))
        yield Change(what, figure, before, after, noise)
