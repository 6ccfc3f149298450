"""Timing in rounds: other processes spoil single rounds, not results, and unclear results are reported."""

from collections.abc import Callable

import pytest
import torch

from rltr.cost.rounds import Clock, Rounds, busy, rounds

CPU = torch.device("cpu")


class Fake:
    """A clock, and calls that take a given number of seconds times the ``slowness`` at that time."""

    def __init__(self, slowness: Callable[[float], float] = lambda now: 1.0) -> None:
        self.now = 0.0
        self.slowness = slowness
        self.ran: list[float] = []

    def call(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.ran.append(seconds)
            self.now += seconds * self.slowness(self.now)

        return run

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.now, cpu=lambda: self.now, load=lambda: 0.0, processors=lambda: 2)


def in_bursts(now: float) -> float:
    """Slowness if another process takes three quarters of the machine for two thirds of the time."""
    return 4.0 if now % 0.9 < 0.6 else 1.0


@pytest.mark.parametrize("slowness", [lambda now: 1.0, in_bursts], ids=["quiet", "bursts"])
def test_times_are_those_of_a_quiet_machine(slowness: Callable[[float], float]) -> None:
    fake, true = Fake(slowness), [1e-5, 2e-3, 0.01, 0.03, 0.05]
    found = rounds([fake.call(seconds) for seconds in true], CPU, clock=fake.clock)
    assert found.fastest == pytest.approx(true, rel=1e-6)


def test_rounds_alternate_in_order_and_end_when_times_are_confirmed() -> None:
    fake = Fake()
    rounds([fake.call(seconds) for seconds in (1.0, 2.0, 3.0)], CPU, least=2, clock=fake.clock)
    # Each call once to warm up and once to see how short it is, then a round in order and one in reverse.
    assert fake.ran == [1, 2, 3, 1, 2, 3, 1, 2, 3, 3, 2, 1]


def test_unconfirmed_times_are_measured_again_within_bounds() -> None:
    def slower_and_slower(now: float) -> float:
        return 1.1 ** (now / 10)

    fake = Fake(slower_and_slower)  # no two rounds agree
    rounds([fake.call(10.0)], CPU, least=3, most=10, limit=1e9, clock=fake.clock)
    assert len(fake.ran) == 2 + 10
    fake = Fake(slower_and_slower)
    rounds([fake.call(10.0)], CPU, least=3, most=10, limit=1.0, clock=fake.clock)
    assert len(fake.ran) == 2 + 3
    # Only unclear calls are repeated: here the long one, during which the machine changes.
    fake = Fake(lambda now: 1.0 + 0.5 * (now > 60))
    rounds([fake.call(1e-3), fake.call(20.0)], CPU, least=2, most=10, limit=1e9, clock=fake.clock)
    assert fake.ran.count(20.0) > 2 + 2


def test_short_calls_are_repeated_within_a_round() -> None:
    fake = Fake()
    rounds([fake.call(1e-5)], CPU, least=1, most=1, clock=fake.clock)
    assert len(fake.ran) >= 400  # 4 ms


def test_every_sign_of_a_busy_machine_is_reported() -> None:
    quiet = Rounds([[1.0, 1.05, 1.1], [2.0, 2.1, 2.2], [1.0, 1.3, 1.9]], cpu=1.9)
    assert busy(quiet, CPU, Fake().clock) is None

    def clock(load: float) -> Clock:
        return Clock(load=lambda: load, processors=lambda: 2)

    assert busy(quiet, CPU, clock(2.2)) is None  # the load of its own two threads
    assert busy(quiet, CPU, clock(3.5)) == "the load average is 3.5 on 2 processors"
    starved = busy(Rounds(quiet.times, cpu=0.5), CPU, clock(0.0))
    assert starved == "this process had a processor for 50% of the time"
    spread = busy(Rounds([[1.0, 1.0, 1.8, 1.8]] * 3, cpu=0.5), torch.device("cuda"), clock(9.0))
    # The load on the processors does not slow a GPU.
    assert spread == "a quarter of the repeats of the same work took at least 80% longer than the fastest (bound: 50%)"


@pytest.mark.parametrize(
    ("slow", "said"),
    [(0, 0.0), (1, 0.0), (5, 0.0), (3, 1.0), (4, 1.0)],
    ids=["never", "one in five", "always", "three in five", "four in five"],
)
def test_repeats_disagree_if_a_quarter_of_them_take_longer(slow: int, said: float) -> None:
    """One slow round in five is ignored, and a call that is always slow is only slow."""
    times = [2.0 * seconds if turn < slow else seconds for seconds in (1.0, 1e-3, 7.0) for turn in range(5)]
    found = Rounds([times[at : at + 5] for at in (0, 5, 10)], cpu=1.0)
    assert found.disagreement == pytest.approx(said)
