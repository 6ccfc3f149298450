"""Run measurements within a time limit, and write all results after each one.

A later failure must not lose earlier measurements, because time on a rented device is short. So the error of a failed
unit is recorded and the next unit runs; the command still exits with status 1.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import console, write

log = logging.getLogger(__name__)

Row = Mapping[str, Any]


class Journal:
    """Runs units and collects their rows.

    Args:
        heading: first entries of the file: environment, settings.
        out: file to write after each unit; None writes no file.
        limit: seconds after which no unit starts.
        clock: returns seconds; replaced in tests.
    """

    def __init__(
        self,
        heading: Mapping[str, Any],
        out: Path | None,
        limit: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.heading = heading
        self.out = out
        self.limit = limit
        self.clock = clock
        self.parts: dict[str, list[Row]] = {}
        self.left_out: list[dict[str, str]] = []
        self.failed: list[dict[str, str]] = []
        self.seconds: dict[str, float] = {}
        self._begun = clock()

    @property
    def left(self) -> float:
        """Seconds that are left of the limit."""
        return self.limit - (self.clock() - self._begun)

    def leave_out(self, part: str, unit: str, reason: str) -> None:
        """Record what was not measured, and why."""
        console.print(f"[yellow]left out: {part}, {unit}: {reason}")
        self.left_out.append({"part": part, "unit": unit, "reason": reason})

    def run(self, part: str, unit: str, estimate: float, measure: Callable[[], Sequence[Row]]) -> Sequence[Row]:
        """Measure one unit and return its rows; none if it was left out or failed.

        Args:
            part: the part of the results that the rows belong to.
            unit: description of what is measured.
            estimate: expected seconds; the unit is left out if less time is left.
            measure: measures the unit and returns its rows.
        """
        if estimate > self.left:
            reason = f"it would take about {estimate:.0f} s, and {max(self.left, 0):.0f} s of --minutes are left"
            self.leave_out(part, unit, reason)
            return []
        begun, rows = self.clock(), list[Row]()
        try:
            rows = [{"case": unit, **row} for row in measure()]
        except torch.OutOfMemoryError as error:
            self.leave_out(part, unit, f"out of memory: {str(error).splitlines()[0]}")
        except Exception as error:  # whatever failed, later units can still be measured
            log.exception("%s, %s", part, unit)
            self.failed.append({"part": part, "unit": unit, "error": f"{type(error).__name__}: {error}"})
        self.parts.setdefault(part, []).extend(rows)
        took = self.clock() - begun
        self.seconds[part] = self.seconds.get(part, 0.0) + took
        console.print(f"{part}, {unit}: {took:.1f} s")
        self.write()
        return rows

    def results(self) -> dict[str, Any]:
        """All results so far, for JSON."""
        return {
            **self.heading,
            "parts": self.parts,
            "left_out": self.left_out,
            "failed": self.failed,
            "seconds": self.seconds,
        }

    def write(self) -> None:
        """Write all results so far, atomically."""
        if self.out is not None:
            write(self.out, self.results())
