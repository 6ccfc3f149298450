"""Time forward passes fairly: device synchronisation, and an order in which native passes alternate with others."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


def wait(device: torch.device) -> None:
    """Wait until the device has finished all queued work, because accelerators run asynchronously."""
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
    """Order of the passes over one batch: every operating point once, and the native model (None) in between.

    The native model is also first and last. The order rotates from batch to batch, so that no point always runs after
    the same other point, or always last when the processor is hot.

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
    """Native time to compare each point with: the mean of the native passes before and after it, in seconds.

    Args:
        order: as :func:`pass_order` returns it, with native passes (None) at both ends.
        seconds: the time of each pass.
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
    """Set the number of torch threads inside the block (None keeps it), yield the number, and restore it."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
