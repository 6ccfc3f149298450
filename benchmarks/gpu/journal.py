"""What was found so far: units run within a budget of time, and a file that is whole after each of them.

A device that is lent for minutes must not lose what it measured to what fails later. So a unit that fails is noted with
its error, and the next one runs; the command ends with status 1 all the same.
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
    """Runs units and keeps their rows.

    Args:
        heading: what stands above the results: environment, settings.
        out: file that is written after each unit; None for none.
        limit: seconds after which nothing begins.
        clock: seconds; replaced in tests.
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
        """Seconds until nothing begins any more."""
        return self.limit - (self.clock() - self._begun)

    def leave_out(self, part: str, unit: str, reason: str) -> None:
        """Note what was not measured, and why."""
        console.print(f"[yellow]left out: {part}, {unit}: {reason}")
        self.left_out.append({"part": part, "unit": unit, "reason": reason})

    def run(self, part: str, unit: str, estimate: float, measure: Callable[[], Sequence[Row]]) -> Sequence[Row]:
        """Measure one unit, unless it is likely to take longer than there is time; its rows, none if there are none.

        Args:
            part: what its rows belong to.
            unit: what is measured, in words.
            estimate: seconds that it is likely to take.
            measure: gives its rows.
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
        except Exception as error:  # whatever it is, what comes after it can still be measured
            log.exception("%s, %s", part, unit)
            self.failed.append({"part": part, "unit": unit, "error": f"{type(error).__name__}: {error}"})
        self.parts.setdefault(part, []).extend(rows)
        took = self.clock() - begun
        self.seconds[part] = self.seconds.get(part, 0.0) + took
        console.print(f"{part}, {unit}: {took:.1f} s")
        self.write()
        return rows

    def results(self) -> dict[str, Any]:
        """Everything so far, for JSON."""
        return {
            **self.heading,
            "parts": self.parts,
            "left_out": self.left_out,
            "failed": self.failed,
            "seconds": self.seconds,
        }

    def write(self) -> None:
        """Write everything so far, whole or not at all."""
        if self.out is not None:
            write(self.out, self.results())
