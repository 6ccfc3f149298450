"""A race finds the best candidate with few measurements."""

import pytest

from rltr.probe.curve import TradeOff
from rltr.probe.race import FINALISTS, MARGIN, race

LOSSES = (0.1,)


def measured(value: float) -> TradeOff:
    """A trade-off whose mean cost at :data:`LOSSES` is ``value``."""
    return TradeOff((value, 0.01), (0.1, 3.0))


def test_all_candidates_run_on_few_inputs_and_the_best_on_all() -> None:
    calls: list[tuple[float, int]] = []

    def measure(candidate: float, inputs: int) -> TradeOff:
        calls.append((candidate, inputs))
        return measured(candidate)

    candidates = [0.9, 0.5, 0.7, 0.3, 0.8, 0.6]
    best, tried = race(candidates, measure, LOSSES, (10, 100))
    assert best.candidate == 0.3 and best.inputs == 100 and best.value == pytest.approx(0.3)
    assert [candidate for candidate, inputs in calls if inputs == 10] == candidates
    assert sorted(candidate for candidate, inputs in calls if inputs == 100) == [0.3, 0.5, 0.6]
    assert len(tried) == len(candidates) + FINALISTS == len(calls)


def test_the_measurement_on_all_inputs_decides() -> None:
    best, _ = race([0.4, 0.5], lambda candidate, inputs: measured(candidate if inputs == 10 else 1 - candidate),
                   LOSSES, (10, 100))  # fmt: skip
    assert best.candidate == 0.5


@pytest.mark.parametrize(("rival", "wins"), [(0.5 - 2 * MARGIN, True), (0.5 - MARGIN / 2, False), (0.6, False)])
def test_a_rival_must_be_better_than_the_leader_by_a_margin(rival: float, wins: bool) -> None:
    leader, _ = race([0.5], lambda candidate, _: measured(candidate), LOSSES, (100,))
    best, tried = race([rival], lambda candidate, _: measured(candidate), LOSSES, (100,), leader)
    assert best.candidate == (rival if wins else 0.5) and len(tried) == 1


def test_a_leader_without_rivals_stays() -> None:
    leader, _ = race([0.5], lambda candidate, _: measured(candidate), LOSSES, (100,))
    assert race([], lambda candidate, _: measured(candidate), LOSSES, (10, 100), leader) == (leader, [])
