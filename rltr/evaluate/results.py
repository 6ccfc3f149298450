"""Results of an evaluation, and their files."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from rltr.errors import RltrError
from rltr.evaluate.pareto import Point, hypervolume, pareto_front
from rltr.evaluate.points import POLICY, Measurement, Shown
from rltr.evaluate.resampling import RESAMPLES, resampled_qualities, unpack
from rltr.evaluate.statistics import Interval
from rltr.system import former_names
from rltr.system.files import atomic_write
from rltr.system.former_names import present_names
from rltr.system.reading import read_regular

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Evaluation:
    """Results of one evaluation: the native model and every operating point.

    Intervals are pairs of lower and upper end, at 95 %. ``results.json`` holds these fields, Pareto fronts and
    hypervolumes.
    """

    environment: dict[str, str]
    """Conditions of the measurement: processor, threads, versions, date."""
    model: str
    """Name of the model."""
    examples: int
    """Number of test inputs."""
    classes: list[str]
    """Names of the classes, by label; empty where there are none."""
    dense_quality: float
    """Mean quality of the native model's answers, at most 1."""
    dense_quality_interval: Interval | None
    """95 % interval of ``dense_quality`` over inputs; None if there is none."""
    native_milliseconds: float
    """Median wall time per input of the native model."""
    native_throughput: float
    """Inputs per second of the native model."""
    tokens: float
    """Mean tokens per input of the native model, padding included."""
    batch_size: int
    """Inputs per pass."""
    timed_batches: int
    """Number of timed batches; a smaller last batch is not timed."""
    native_every: int
    """Largest number of points between two native passes."""
    seed: int
    """Seed of the resampling behind intervals."""
    points: list[Measurement]
    """Every operating point that was measured."""
    gallery: list[Shown] = field(default_factory=list)
    """Some inputs with the tokens that the policy kept of them."""
    quality_name: str = "accuracy"
    """Name of the metric (see :class:`rltr.tasks.goals.Goal`)."""
    chance: float = 0.0
    """Quality of guessing."""

    def records(self) -> list[dict[str, Any]]:
        """Return one dictionary per operating point, with its measurements and the name of its curve.

        Keys of the quality have the name of the metric: ``accuracy``, ``accuracy_low``, ``accuracy_change`` and so on.
        ``kept`` (mean tokens in each layer) and ``layers`` are lists; unknown values are None. The quality of every
        single input is left out; see :meth:`resampled`.
        """
        return [{"series": point.series, **_record(point, self.quality_name)} for point in self.points]

    def to_dataframe(self) -> "pandas.DataFrame":
        """:meth:`records` as a DataFrame, one row for each operating point; unknown numbers are NaN."""
        import pandas

        rows = [{name: math.nan if value is None else value for name, value in row.items()} for row in self.records()]
        return pandas.DataFrame(rows)

    def series(self) -> dict[str, list[Measurement]]:
        """Points by curve, in order of measured latency. The policy comes first, then the methods that merge."""
        ordered = sorted(
            self.points,
            key=lambda point: (point.method != POLICY, point.removal == "drop", point.series, point.latency),
        )
        series: dict[str, list[Measurement]] = {}
        for point in ordered:
            series.setdefault(point.series, []).append(point)
        return series

    def curves(self, cost: str = "latency") -> dict[str, list[Point]]:
        """Pairs of cost and quality by curve; ``cost`` is ``latency`` or ``flops``."""
        return {name: [(getattr(p, cost), p.quality) for p in points] for name, points in self.series().items()}

    def resampled(self, resamples: int = RESAMPLES) -> dict[str, Float[NDArray[np.float64], "resamples points"]]:
        """Mean qualities by curve on resampled examples, the same resamples for all, in the order of :meth:`curves`.

        Curves with a point that lacks the quality of each answer are left out; results of older versions lack it.

        Raises:
            RltrError: if the qualities are damaged.
        """
        series = {name: points for name, points in self.series().items() if all(point.per_input for point in points)}
        if not series:
            return {}
        each = np.stack([unpack(point.per_input, self.examples) for points in series.values() for point in points])
        qualities = resampled_qualities(each, seed=self.seed, resamples=resamples)
        ends = np.cumsum([len(points) for points in series.values()])
        return dict(zip(series, np.split(qualities, ends[:-1], axis=1), strict=True))

    def fronts(self, cost: str = "latency") -> dict[str, list[Point]]:
        """The Pareto front of every curve."""
        return {name: [points[i] for i in pareto_front(points)] for name, points in self.curves(cost).items()}

    def hypervolumes(self, cost: str = "latency") -> dict[str, float]:
        """Hypervolume of every curve, with the native model's cost and the quality of guessing as reference point."""
        return {name: hypervolume(points, 1.0, self.chance) for name, points in self.curves(cost).items()}


_ADAPTER = TypeAdapter(Evaluation)
LARGEST = 2**28
"""Maximum size of a file of results in bytes; it has a few bytes per input and operating point."""


def write_json(evaluation: Evaluation, path: Path) -> None:
    """Write all results as indented JSON, which :func:`read_json` can read."""
    derived = {
        "fronts": {cost: evaluation.fronts(cost) for cost in ("latency", "flops")},
        "hypervolumes": {cost: evaluation.hypervolumes(cost) for cost in ("latency", "flops")},
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_json({**_ADAPTER.dump_python(evaluation, mode="json"), **derived}, indent=2) + b"\n")


def read_json(path: Path) -> Evaluation:
    """Read results that :func:`write_json` wrote. Unknown keys, of a later version, are ignored.

    Raises:
        RltrError: if the file cannot be read or does not hold results.
    """
    try:
        content = read_regular(path, LARGEST)
    except RltrError as error:
        raise RltrError(f"Cannot read the results: {error}. `rltr evaluate` writes them.") from error
    try:
        return _ADAPTER.validate_python(_in_present_names(from_json(content)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RltrError(f"{path} does not hold rltr results: {where}: {first['msg']}.") from error
    except RltrError as error:
        raise RltrError(f"{path} does not hold rltr results: {error}.") from error
    except ValueError as error:
        raise RltrError(f"{path} is not valid JSON: {error}.") from error


def _in_present_names(data: Any) -> Any:
    """Rename the fields of results of earlier versions to the current names.

    Results from before goals other than classification existed lose their gallery.
    """
    if not isinstance(data, dict):
        return data
    if "dense_accuracy" in data:
        classes = data.get("classes")
        data["chance"] = 1 / len(classes) if isinstance(classes, list) and classes else 0.0
        data["gallery"] = []
    data = present_names(data, former_names.RESULTS, "it")
    _rename_parts(data, "points", former_names.RESULTS_POINT)
    gallery = data.get("gallery")
    for shown in gallery if isinstance(gallery, list) else []:
        if isinstance(shown, dict):
            _rename_parts(shown, "views", former_names.RESULTS_VIEW)
    return data


def _rename_parts(data: dict[str, Any], field: str, names: Mapping[str, str]) -> None:
    parts = data.get(field)
    if isinstance(parts, list):
        data[field] = [present_names(part, names, field) if isinstance(part, dict) else part for part in parts]


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """Write one line per point, for spreadsheets; the tokens kept in each layer share a cell, separated by spaces.

    Columns of the quality have the name of the metric: ``accuracy``, ``accuracy_low``, ``accuracy_change``, …
    """
    rows = [
        {name: _cell(name, value) for name, value in _record(point, evaluation.quality_name).items()}
        for point in evaluation.points
    ]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def _record(point: Measurement, quality_name: str) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for own in (f.name for f in fields(point)):
        value = getattr(point, own)
        name = own.replace("quality", quality_name.replace(" ", "_"))
        if name.endswith("_interval"):
            low, high = value or (None, None)
            record[name.replace("_interval", "_low")] = low
            record[name.replace("_interval", "_high")] = high
        elif name != "per_input":
            record[name] = value
    record["prediction_error"] = point.prediction_error
    return record


def _cell(name: str, value: Any) -> str | float:
    """Format a value for a CSV cell."""
    if name == "kept":
        return " ".join(f"{tokens:.3f}" for tokens in value)
    if name == "layers":
        return " ".join(map(str, value))
    return "" if value is None else value


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the logged scalars of a training from CSV: one column per scalar, empty where it was not logged.

    Raises:
        RltrError: if the file cannot be read or a cell is not a number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_numbers(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise RltrError(f"Cannot read the training log {path}: {error.strerror}.") from error
    except ValueError as error:
        raise RltrError(f"The training log {path} has a cell that is not a number: {error}.") from error


def _numbers(row: Mapping[str, str | None]) -> dict[str, float]:
    return {name: float(cell) for name, cell in row.items() if cell not in ("", None)}


def highlighted(points: Sequence[Measurement], latency: float = 0.5) -> Measurement | None:
    """The policy's point nearest to a relative latency, among those on its Pareto front that beat the native time.

    None if no point of the policy is faster than the native model.
    """
    own = [point for point in points if point.method == POLICY and not point.slower]
    front = [own[index] for index in pareto_front([(point.latency, point.quality) for point in own])]
    return min(front, key=lambda point: abs(point.latency - latency), default=None)
