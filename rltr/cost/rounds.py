"""Timing many small things at once, so that a burst of other work spoils a round and not a result.

Every round runs everything once, so that a machine that slows down slows all; of the rounds the fastest counts, because
other work can only add time. A fastest time that no other round confirms is measured again.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from rltr.timing import wait

AGREEMENT = 0.03
"""How far the two fastest rounds may be apart."""
SHORT = 0.5e-3
"""Seconds: shorter calls are repeated until they take so long together, for the clock's sake."""
VISIT = 4e-3
"""Seconds that a round repeats one thing for, at least once."""
UNSTEADY = 0.2
"""Rounds that usually take so much longer than the fastest are a sign that something else runs."""
STARVED = 0.85
"""A processor that works for us less than this share of the time works for somebody else."""


def load_average() -> float:
    """Processes that want a processor, over the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Clock:
    """What tells the time, and who else uses the machine; called, it tells the time. Replaced in tests.

    Attributes:
        wall: seconds.
        cpu: processor seconds of this process.
        load: processes that want a processor.
        processors: how many there are for them.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    load: Callable[[], float] = load_average
    processors: Callable[[], int] = processors

    def __call__(self) -> float:
        """Seconds."""
        return self.wall()


CLOCK = Clock()
"""This machine's."""


@dataclass(frozen=True)
class Low:
    """The fastest of several rounds.

    Attributes:
        seconds: one call's, in the fastest round.
        spread: how much longer the median round took, as a share of that.
    """

    seconds: float
    spread: float


@dataclass(frozen=True)
class Rounds:
    """What was measured, and how busy the machine was meanwhile.

    Attributes:
        lows: of each thing that was timed.
        cpu: processor seconds of this process per second, over the whole measurement.
    """

    lows: list[Low]
    cpu: float

    @property
    def spread(self) -> float:
        """The median of the spreads."""
        return median(low.spread for low in self.lows)


def rounds(
    calls: Sequence[Callable[[], object]],
    device: torch.device,
    least: int = 5,
    most: int = 25,
    limit: float = 20.0,
    clock: Clock = CLOCK,
) -> Rounds:
    """Time every call, in alternation.

    Args:
        calls: what to time; each runs once before, untimed.
        device: that it runs on, waited for.
        least: rounds in any case.
        most: rounds at most; those after ``least`` only run what is not confirmed yet.
        limit: seconds after which no round begins beyond ``least``.
        clock: replaced in tests.
    """
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    begun, worked = clock(), clock.cpu()
    repeats = [_repeats(call, device, clock) for call in calls]
    for number in range(most):
        open_ones = [i for i, own in enumerate(times) if number < least or not _confirmed(own)]
        if not open_ones or (number >= least and clock() - begun > limit):
            break
        # There and back: nothing is always timed behind the same neighbour.
        for i in open_ones if number % 2 == 0 else reversed(open_ones):
            times[i].append(_visit(calls[i], repeats[i], device, clock))
    took = max(clock() - begun, 1e-9)
    lows = [Low(min(own), median(own) / max(min(own), 1e-12) - 1) for own in times]
    return Rounds(lows, (clock.cpu() - worked) / took)


def busy(measured: Rounds, device: torch.device, clock: Clock = CLOCK) -> str | None:
    """What says that something else used the machine while it was measured; None if nothing does.

    Args:
        measured: what was found.
        device: that was measured.
        clock: replaced in tests.
    """
    signs = []
    if measured.spread > UNSTEADY:
        signs.append(f"the same work usually takes {measured.spread:.0%} longer than in its best round")
    if device.type == "cpu":
        if measured.cpu < STARVED:
            signs.append(f"this process had a processor for {measured.cpu:.0%} of the time")
        load, there = clock.load(), clock.processors()
        if load > there + 0.5:
            signs.append(f"the load average is {load:.1f} on {there} processor{'s' if there > 1 else ''}")
    return "; ".join(signs) or None


def _confirmed(times: Sequence[float]) -> bool:
    if len(times) < 2:
        return False
    first, second, *_ = sorted(times)
    return second <= first * (1 + AGREEMENT)


def _repeats(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> int:
    """Calls that make up one timing."""
    once = _seconds(call, 1, device, clock)
    return max(1, min(1000, round(SHORT / max(once, 1e-9))))


def _visit(call: Callable[[], object], repeats: int, device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of one call: the fastest of the timings that fit into a visit."""
    begun, fastest = clock(), float("inf")
    while True:
        fastest = min(fastest, _seconds(call, repeats, device, clock) / repeats)
        if clock() - begun >= VISIT:
            return fastest


def _seconds(call: Callable[[], object], repeats: int, device: torch.device, clock: Callable[[], float]) -> float:
    wait(device)
    start = clock()
    for _ in range(repeats):
        call()
    wait(device)
    return clock() - start
