"""Find the best of many candidates with few measurements: all on few inputs, the best of them on more."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rltr.probe.curve import TradeOff, mean_cost

Candidate = TypeVar("Candidate")

FINALISTS = 3
"""Candidates that are measured on all inputs."""
MARGIN = 0.005
"""Smallest difference of mean costs that counts: a rival replaces the leader only if it is better by this."""


@dataclass(frozen=True)
class Tried(Generic[Candidate]):
    """A candidate that was measured.

    Attributes:
        candidate: what was measured.
        curve: its trade-off.
        value: its mean cost at the compared losses; lower is better.
        inputs: number of inputs.
    """

    candidate: Candidate
    curve: TradeOff
    value: float
    inputs: int


def race(
    candidates: Iterable[Candidate],
    measure: Callable[[Candidate, int], TradeOff],
    losses: Sequence[float],
    inputs: Sequence[int],
    leader: Tried[Candidate] | None = None,
) -> tuple[Tried[Candidate], list[Tried[Candidate]]]:
    """Compare candidates on few inputs, and the best three of them on more (successive halving).

    Args:
        candidates: the candidates, at least one unless there is a leader.
        measure: measures a candidate on the first so many inputs of a sample.
        losses: the losses at which trade-offs are compared.
        inputs: number of inputs of each round, ascending.
        leader: best candidate so far, measured on as many inputs as the last round; the candidates must beat it.

    Returns:
        The new leader, and all measurements in order.
    """
    tried: list[Tried[Candidate]] = []
    left = list(candidates)
    found: list[Tried[Candidate]] = []
    for number, count in enumerate(inputs):
        if number > 0:
            left = [one.candidate for one in sorted(found, key=lambda one: one.value)[:FINALISTS]]
        curves = [measure(candidate, count) for candidate in left]
        found = [
            Tried(candidate, curve, mean_cost(curve, losses), count)
            for candidate, curve in zip(left, curves, strict=True)
        ]
        tried += found
    best = min(found, key=lambda one: one.value) if found else leader
    assert best is not None, "a race needs a candidate"
    if leader is not None and best.value > leader.value - MARGIN:
        best = leader
    return best, tried
