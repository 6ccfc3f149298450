"""Compare two results of a benchmark: the difference of each figure, and how large it could be by chance."""

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
    """Contents of a results file.

    Attributes:
        name: name of the benchmark.
        environment: machine and versions.
        settings: settings of the benchmark.
        tables: layout and rows of each table; ``benchmarks.gpu`` has several, every other benchmark one.
    """

    name: str
    environment: Mapping[str, str]
    settings: Mapping[str, Any]
    tables: Mapping[str, tuple[Layout, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Change:
    """A figure before and after.

    Attributes:
        what: description of what was measured.
        figure: the figure.
        old: value before.
        new: value after.
        noise: combined half width of both 95 % intervals; None if no interval was stored.
    """

    what: str
    figure: Figure
    old: float
    new: float
    noise: float | None

    @property
    def worse_by(self) -> float:
        """How much worse the new value is, in the figure's unit; negative if it is better."""
        return self.new - self.old if self.figure.better == "lower" else self.old - self.new

    @property
    def within_noise(self) -> bool:
        """Whether the difference may be due to chance."""
        return abs(self.worse_by) <= (self.noise or 0.0)

    def fails(self, tolerance: float) -> bool:
        """Whether the figure is worse by more than the noise plus ``tolerance`` times the old value.

        A figure that should be true has no tolerance.
        """
        allowed = 0.0 if self.figure.better == "true" else tolerance * abs(self.old)
        return self.worse_by > (self.noise or 0.0) + allowed

    def verdict(self, tolerance: float) -> str:
        """Describe the change in one or two words."""
        if self.within_noise:
            return "same" if self.noise is None else "within noise"
        unknown = "" if self.noise is not None or self.figure.better == "true" else ", noise unknown"
        if self.worse_by < 0:
            return f"better{unknown}"
        return f"worse{unknown}" if self.fails(tolerance) else f"worse, tolerated{unknown}"


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        RltrError: if it is not a result of a benchmark or an evaluation, or if its benchmark has no figures to compare.
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
        raise RltrError(f"{path} is not a result of a benchmark: give JSON files that benchmarks wrote with --out")
    name = data["benchmark"]
    if "parts" in data:
        tables = {part: (PARTS[part], rows) for part, rows in data["parts"].items() if part in PARTS}
    elif name in ROWS:
        tables = {name: (ROWS[name], data["rows"])}
    else:
        raise RltrError(f"{path} is a result of {name}, which has no figures to compare; these have: {', '.join(ROWS)}")
    return Results(name, data["environment"], _settings(data["settings"]), tables)


def _settings(stored: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings by name; a file that combines several runs has a list of settings, and then each name has a list."""
    if isinstance(stored, Mapping):
        return dict(stored)
    values: dict[str, list[Any]] = defaultdict(list)
    for run in stored:
        for name, value in run.items():
            values[name].append(value)
    return dict(values)


def changes(old: Results, new: Results) -> tuple[list[Change], list[str]]:
    """Compare all figures that both results have; also list what only one of them has."""
    found: list[Change] = []
    alone: list[str] = []
    for table in dict.fromkeys([*old.tables, *new.tables]):
        layout = (old.tables.get(table) or new.tables[table])[0]
        before, after = (_by_key(layout, results.tables.get(table, (layout, ()))[1]) for results in (old, new))
        alone += [f"only in OLD: {table}, {what}" for what in before if what not in after]
        alone += [f"only in NEW: {table}, {what}" for what in after if what not in before]
        for what, row in before.items():
            if what in after:
                label = what if len(old.tables) == 1 else f"{table}, {what}"
                found += _row_changes(label, layout, row, after[what])
    return found, alone


def _by_key(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows by a description of what was measured; repeated descriptions are numbered from the second on."""
    found: dict[str, Mapping[str, Any]] = {}
    seen: dict[str, int] = defaultdict(int)
    for row in rows:
        what = ", ".join(f"{name} {row.get(name)}" for name in layout.key)
        seen[what] += 1
        found[what if seen[what] == 1 else f"{what} ({seen[what]})"] = row
    return found


def _row_changes(what: str, layout: Layout, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for figure in layout.figures:
        before, after = figure.value(old), figure.value(new)
        if before is None or after is None:
            continue
        halves = [figure.noise(old), figure.noise(new)]
        noise = None if None in halves else math.hypot(*(half for half in halves if half is not None))
        yield Change(what, figure, before, after, noise)
