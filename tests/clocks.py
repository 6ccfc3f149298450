"""A simulated machine whose clock advances with torch's operations, so that measured times are the same everywhere."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rltr.cost.rounds import Clock

CALL, VALUE, PRODUCT = 1e-4, 1e-6, 1e-8
"""Simulated seconds of an operator call, of an element of its result, and of a multiplication in a matrix product.

They are large, because calls that are too short for a clock would be repeated many times.
"""


class Machine(TorchDispatchMode):
    """Simulated clock: operators inside the block take simulated time; calling the object returns the current time.

    Args:
        slowness: factor by which operators are slower at a given time, for example because of other processes.
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
        """Return the time in seconds; every call takes one nanosecond."""
        self.now += 1e-9
        return self.now


def bursts(now: float) -> float:
    """Slowness if another process takes three quarters of the machine for a third of every second."""
    return 4.0 if now % 1 < 0.33 else 1.0


def another_process(now: float) -> float:
    """Slowness if another process takes half of the machine in one of every two seconds, the first or second at random.

    A pass of four rows takes less than half a second, so some repeats are slowed and others are not.
    """
    number = int(now)
    return 2.0 if (number + random.Random(number // 2).randrange(2)) % 2 else 1.0


def jitter(now: float) -> float:
    """Slowness of a virtual machine: random, at most 10 %, constant within a second."""
    return 1.0 + 0.1 * random.Random(int(now)).random()


def _tensors(result: Any) -> list[Tensor]:
    return [
        part for part in (result if isinstance(result, tuple | list) else [result]) if isinstance(part, torch.Tensor)
    ]


def clock_of(machine: Machine, load: float = 0.0) -> Clock:
    """A clock for measuring prices on a machine with the given load average."""
    return Clock(wall=machine, cpu=machine, load=lambda: load, processors=lambda: 2)
