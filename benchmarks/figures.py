"""The columns of each benchmark's rows: which are figures, whether lower or higher is better, which identify a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """A column whose values are compared.

    Attributes:
        column: its name.
        better: which values are better: ``lower`` (by absolute value), ``higher``, or ``true``.
        interval: column of the 95 % interval, or columns of the lowest and highest value; None if there are neither.
    """

    column: str
    better: Literal["lower", "higher", "true"]
    interval: str | tuple[str, str] | None = None

    def value(self, row: Mapping[str, Any]) -> float | None:
        """The figure's value in a row; None if the row has none."""
        found = row.get(self.column)
        if found is None:
            return None
        return abs(float(found)) if self.better == "lower" else float(found)

    def noise(self, row: Mapping[str, Any]) -> float | None:
        """Half the width of the interval in a row; None if the row has none."""
        ends: Any = [row.get(name) for name in self.interval] if isinstance(self.interval, tuple) else None
        ends = ends or (row.get(self.interval) if isinstance(self.interval, str) else None)
        if ends is None or None in ends:
            return None
        low, high = ends
        return (float(high) - float(low)) / 2


@dataclass(frozen=True)
class Layout:
    """How the rows of a benchmark are read.

    Attributes:
        key: columns that identify what was measured; rows with the same key are compared in their order.
        figures: columns with measured values.
    """

    key: tuple[str, ...]
    figures: tuple[Figure, ...]


ATTACH = (Figure("kept / native", "lower", "95 %"),)
SPEEDUP = (Figure("speed-up", "higher", "95 %"), Figure("of promise", "higher"))
DECISIONS = (
    Figure("decisions / native", "lower", "95 %"),
    Figure("pass / native", "lower"),
    Figure("pass / repeated", "lower", "its 95 %"),
)
PRICES = (Figure("error", "lower"),)
ROWS: dict[str, Layout] = {
    "attach_overhead": Layout(("dtype", "batch"), ATTACH),
    "budgets": Layout(("model", "budget"), (Figure("off by", "lower", "95 %"),)),
    "decision_overhead": Layout(("model", "dtype", "batch", "cost"), DECISIONS),
    "evaluation": Layout(
        ("method", "removal", "setting", "layers"),
        (
            Figure("quality", "higher", "quality_interval"),
            Figure("latency", "lower", "latency_interval"),
            Figure("flops", "lower"),
        ),
    ),
    "freed_memory": Layout(("freed memory", "batch"), (Figure("seconds", "lower"),)),
    "import_time": Layout((), (Figure("seconds", "lower", ("fastest", "slowest")),)),
    "learning": Layout(
        ("latency",),
        (Figure("policy", "higher", ("lowest", "highest")), Figure("difference", "higher", "95 % interval")),
    ),
    "merge_memory": Layout(("model", "tokens", "mode"), (Figure("peak MB", "lower"),)),
    "packing": Layout(
        ("model", "batch", "dropped are"),
        (Figure("index / layers", "lower", "95 %"), Figure("uneven / equal, per FLOP", "lower", "its 95 %")),
    ),
    "prices": Layout(("model", "batch", "tokens", "FLOPs"), PRICES),
    "rollouts": Layout(("rows",), (Figure("collecting / bare", "higher", "95 %"), Figure("rollouts/s", "higher"))),
    "speedup": Layout(("dtype", "batch", "dropped are"), SPEEDUP),
    "stock_ppo": Layout(("method", "setting"), (Figure("accuracy", "higher", "95 %"), Figure("latency", "lower"))),
    "vector_env": Layout(("inputs", "keep"), (Figure("ratio", "higher", "95 %"), Figure("native steps/s", "higher"))),
}
"""Layout of each benchmark; ``evaluation`` is what ``rltr evaluate`` writes."""
PARTS: dict[str, Layout] = {
    "kernels": Layout(("case", "backend", "rows", "sizes", "pattern"), (Figure("met", "true"),)),
    "proofs": Layout(("case",), (Figure("met", "true"),)),
    "training": Layout(
        ("case", "dtype", "rollouts per update"),
        (
            Figure("rollouts/s", "higher", "95 %"),
            Figure("collecting, s per update", "lower"),
            Figure("learning, s per update", "lower"),
            Figure("peak MB", "lower"),
        ),
    ),
    "native": Layout(("case",), (Figure("native s", "lower"),)),
    "attach overhead": Layout(("case",), ATTACH),
    "speed-up": Layout(("case", "dropped are"), SPEEDUP),
    "decisions": Layout(("case", "cost"), DECISIONS),
    "prices": Layout(("case", "FLOPs"), PRICES),
    "memory": Layout(("case", "pass"), (Figure("peak MB", "lower"), Figure("peak / native", "lower"))),
}
"""Layout of each part of ``benchmarks.gpu``."""
