"""Time two functions in alternation, so that a machine that slows down over minutes affects both equally."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from rltr.evaluate.statistics import Interval, median_ratio
from rltr.system.timing import timed


@dataclass(frozen=True)
class Contender:
    """A function to time.

    Attributes:
        call: the function.
        attached: context manager around every call, outside the timer.
    """

    call: Callable[[], object]
    attached: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Paired:
    """Seconds of two contenders: one pair per round, each the sum of two calls."""

    first: list[float]
    second: list[float]

    @property
    def ratio(self) -> tuple[float, Interval | None]:
        """Median over rounds of the first's time over the second's, and its 95 % interval."""
        return median_ratio(self.first, self.second)


def abba(first: Contender, second: Contender, device: torch.device, rounds: int) -> Paired:
    """Time both in the order A B B A, so that neither always runs after the other; one untimed call of each before."""
    with torch.inference_mode():
        for contender in (first, second):
            with contender.attached():
                contender.call()
        seconds: list[list[float]] = []
        for _ in range(rounds):
            seconds.append([_seconds(contender, device) for contender in (first, second, second, first)])
    return Paired([a + d for a, _, _, d in seconds], [b + c for _, b, c, _ in seconds])


def _seconds(contender: Contender, device: torch.device) -> float:
    with contender.attached():
        return timed(contender.call, device)[1]
