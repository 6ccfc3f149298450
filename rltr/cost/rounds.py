"""Timing many small things at once, so that a burst of other work spoils a round and not a result.

Every round runs everything once, so that a machine that slows down slows all; of the rounds the fastest counts, because
other work can only add time. A fastest time that no other round confirms is measured again.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rltr.system.timing import wait

AGREEMENT = 0.03
"""How far the two fastest rounds may be apart."""
SHORT = 0.5e-3
"""Seconds: shorter calls are repeated until they take so long together, for the clock's sake."""
VISIT = 4e-3
"""Seconds that a round repeats one thing for, at least once."""
UNSTEADY = 0.5
"""Times that disagree by more (:attr:`Rounds.disagreement`) tell that something else runs, and are not trained on.

A quiet virtual machine's reach a third, of the shortest calls; beside one other process they were 0.6 to 1.5.
"""
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
class Rounds:
    """What was measured, and how busy the machine was meanwhile.

    Attributes:
        times: of each thing that was timed, the seconds of one call in each round.
        cpu: processor seconds of this process per second, over the whole measurement.
    """

    times: list[list[float]]
    cpu: float

    @property
    def fastest(self) -> list[float]:
        """Seconds of one call of each thing, in its fastest round."""
        return [min(own) for own in self.times]

    @property
    def disagreement(self) -> float:
        """How much longer than the fastest of the same work a quarter of all rounds took at least, as a share.

        So a machine that is slow all the time agrees with itself, and so does one that is disturbed now and then.
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
    return Rounds(times, (clock.cpu() - worked) / took)


def busy(measured: Rounds, device: torch.device, clock: Clock = CLOCK) -> str | None:
    """What says that something else used the machine while it was measured; None if nothing does.

    Args:
        measured: what was found.
        device: that was measured.
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
