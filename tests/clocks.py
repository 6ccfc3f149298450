"""A made-up machine: its clock goes on by what torch does, so that times are the same wherever tests run."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rltr.cost.rounds import Clock

CALL, VALUE, PRODUCT = 1e-4, 1e-6, 1e-8
"""Seconds of a call, of a number that it gives, and of a multiplication in products of matrices.

So slow that nothing is too short for a clock, which would have it repeated many times.
"""


class Machine(TorchDispatchMode):
    """Inside of its block every operator takes made-up time; called, it tells the time.

    Args:
        slowness: how much longer everything takes at a time, such as while something else runs.
    """

    def __init__(self, slowness: Callable[[float], float] = lambda now: 1.0) -> None:
        super().__init__()
        self.now = 0.0
        self.slowness = slowness

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        takes = CALL + sum(VALUE * part.numel() for part in _tensors(result))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            shared = args[-2].shape[-1]  # products of (rows, shared) and (shared, columns)
            takes += PRODUCT * result.numel() * shared
        elif "attention" in name:
            query, key = args[0], args[1]
            takes += 2 * PRODUCT * query.numel() * key.shape[-2]
        self.now += takes * self.slowness(self.now)
        return result

    def __call__(self) -> float:
        """Seconds; every look at it takes one."""
        self.now += 1e-9
        return self.now


def bursts(now: float) -> float:
    """Every second something else takes three quarters of the machine, for a third of the time."""
    return 4.0 if now % 1 < 0.33 else 1.0


def another_process(now: float) -> float:
    """Another process has half of the machine for one second in every two, the first or the last at random.

    A pass of four rows takes less than half a second: so some repeats are slowed, and others are not.
    """
    number = int(now)
    return 2.0 if (number + random.Random(number // 2).randrange(2)) % 2 else 1.0


def jitter(now: float) -> float:
    """A virtual machine's own: some per cent, up to a tenth."""
    return 1.0 + 0.1 * random.Random(int(now)).random()


def _tensors(result: Any) -> list[Tensor]:
    return [
        part for part in (result if isinstance(result, tuple | list) else [result]) if isinstance(part, torch.Tensor)
    ]


def clock_of(machine: Machine, load: float = 0.0) -> Clock:
    """A clock for prices: nobody else uses the machine, unless ``load`` says so."""
    return Clock(wall=machine, cpu=machine, load=lambda: load, processors=lambda: 2)
