"""Time many short calls in rounds, so that a short disturbance affects one round and not the result.

Every round times each call, so that a machine that slows down slows all of them alike. The fastest round counts,
because other processes only add time. If no second round is about as fast, the call is timed again.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rltr.system.timing import wait

AGREEMENT = 0.03
"""Largest accepted relative difference between the two fastest rounds."""
SHORT = 0.5e-3
"""Minimum duration of one timing in seconds; shorter calls are repeated within a timing."""
VISIT = 4e-3
"""Seconds for which a round repeats the timing of one call; it is timed at least once."""
UNSTEADY = 0.5
"""Largest accepted :attr:`Rounds.disagreement`; beyond it the machine is busy, and a training is refused.

Up to 0.33 was measured for the shortest calls on a quiet virtual machine, and 0.6 to 1.5 beside one other process.
"""
STARVED = 0.85
"""If the process gets a processor for less than this fraction of the time, the machine is busy."""


def load_average() -> float:
    """Load average over the last minute; 0 on systems that have none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Clock:
    """Sources of time and load; calling it returns the wall time. Replaced in tests.

    Attributes:
        wall: returns the wall time in seconds.
        cpu: returns the processor time of this process in seconds.
        load: returns the load average.
        processors: returns the number of processors.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    load: Callable[[], float] = load_average
    processors: Callable[[], int] = processors

    def __call__(self) -> float:
        """Wall time in seconds."""
        return self.wall()


CLOCK = Clock()
"""The clock of this machine."""


@dataclass(frozen=True)
class Rounds:
    """Results of timing, and how busy the machine was.

    Attributes:
        times: for each call, its seconds in each round.
        cpu: processor seconds of this process per second of the measurement.
    """

    times: list[list[float]]
    cpu: float

    @property
    def fastest(self) -> list[float]:
        """Seconds of each call in its fastest round."""
        return [min(own) for own in self.times]

    @property
    def disagreement(self) -> float:
        """Upper quartile, over all calls and rounds, of the time relative to the call's fastest round, minus 1.

        It is small for a machine that is slow all the time, and for one that is disturbed only now and then.
        """
        longer = [np.array(own) / max(min(own), 1e-12) - 1 for own in self.times]
        return float(np.quantile(np.concatenate(longer), 0.75))


def rounds(
    calls: Sequence[Callable[[], object]],
    device: torch.device,
    least: int = 5,
    most: int = 25,
    limit: float = 20.0,
    clock: Clock = CLOCK,
) -> Rounds:
    """Time calls in alternation.

    Args:
        calls: the functions to time; each runs once before, untimed.
        device: the device on which they run; timing synchronises it.
        least: minimum number of rounds.
        most: maximum number of rounds. Rounds after ``least`` only time calls whose fastest time is not confirmed.
        limit: seconds after which no further round begins, except for the first ``least``.
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
        # In alternating order, so that a call is not always timed after the same other call.
        for i in open_ones if number % 2 == 0 else reversed(open_ones):
            times[i].append(_visit(calls[i], repeats[i], device, clock))
    took = max(clock() - begun, 1e-9)
    return Rounds(times, (clock.cpu() - worked) / took)


def busy(measured: Rounds, device: torch.device, clock: Clock = CLOCK) -> str | None:
    """Signs that other processes used the machine during a measurement; None without a sign.

    Args:
        measured: the measurement.
        device: the device that was measured.
        clock: replaced in tests.
    """
    signs = []
    longer = measured.disagreement
    if longer > UNSTEADY:
        signs.append(
            f"a quarter of the repeats of the same work took at least {longer:.0%} longer than the fastest "
            f"(bound: {UNSTEADY:.0%})"
        )
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
    """Number of calls per timing."""
    once = _seconds(call, 1, device, clock)
    return max(1, min(1000, round(SHORT / max(once, 1e-9))))


def _visit(call: Callable[[], object], repeats: int, device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of one call: the fastest timing within :data:`VISIT` seconds."""
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
