"""Timing one forward pass among others, fairly."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


def wait(device: torch.device) -> None:
    """Return when the device has done all it was asked to do: accelerators run behind the caller's back."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def timed(
    call: Callable[[], Result], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> tuple[Result, float]:
    """Return what ``call`` returns, and the seconds from its start until the device has finished it."""
    wait(device)
    start = clock()
    result = call()
    wait(device)
    return result, clock() - start


def pass_order(points: int, batch: int, native_every: int) -> list[int | None]:
    """Order of passes over one batch: every point once, the native model (None) first, last and in between.

    The order of the points rotates from batch to batch, so that no point always runs behind the same neighbour, or
    always last when the processor is hot.

    Args:
        points: number of operating points.
        batch: index of the batch.
        native_every: largest number of points between two native passes, at least 1.
    """
    order: list[int | None] = [None]
    for place in range(points):
        order.append((place + batch) % points)
        if (place + 1) % native_every == 0 or place + 1 == points:
            order.append(None)
    return order


def native_beside(order: Sequence[int | None], seconds: Sequence[float]) -> dict[int, float]:
    """Native seconds that belong to each point of such an order: the mean of the native passes before and after it.

    Args:
        order: as :func:`pass_order` gives it, native (None) at both ends.
        seconds: one time per pass.
    """
    natives = [place for place, point in enumerate(order) if point is None]
    beside = {}
    for before, after in zip(natives, natives[1:], strict=False):
        for place in range(before + 1, after):
            point = order[place]
            assert point is not None
            beside[point] = (seconds[before] + seconds[after]) / 2
    return beside


@contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Let torch use so many threads inside the block (None: as many as now), yield the number, and restore it."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
