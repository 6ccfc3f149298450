"""Points that earlier versions measured: seconds per row at a few token counts, read in between by straight lines."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rltr.errors import RltrError


def interpolate(
    knots: Float[Tensor, " knots"], values: Float[Tensor, " knots"], at: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Piecewise linear reading of ``values`` (given at rising ``knots``); beyond the last two, their line goes on."""
    right: Int[Tensor, " rows"] = torch.searchsorted(knots, at, right=True).clamp(1, len(knots) - 1)
    left = right - 1
    share = (at - knots[left]) / (knots[right] - knots[left])
    # lerp is exact at both ends, so a measured count reads back as measured.
    return torch.lerp(values[left], values[right], share)


@dataclass(frozen=True)
class Table:
    """Seconds per row at rising token counts. Calling it reads the curve; beyond the last count its last piece goes on.

    An input may be longer than any that was measured, and in production must not fail for it. Attention grows faster
    than a line, so the price of such an input is a little low.
    """

    counts: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a curve that would make more tokens cheaper, or that cannot be read."""
        rising = all(low < high for low, high in zip((-1, *self.counts), self.counts, strict=False))
        falling = any(low > high for low, high in zip(self.seconds, self.seconds[1:], strict=False))
        sound = all(0 <= value < float("inf") for value in self.seconds)
        if len(self.counts) < 2 or len(self.counts) != len(self.seconds) or not rising or falling or not sound:
            raise RltrError(
                "a latency table needs at least two rising token counts and as many finite times that never fall, got "
                f"counts {list(self.counts)} and seconds {list(self.seconds)}. Measure it again"
            )

    @property
    def longest(self) -> int:
        """The most tokens it was measured with."""
        return self.counts[-1]

    def times(self, factor: float) -> "Table":
        """The same points, each so many times as dear."""
        return Table(self.counts, tuple(value * factor for value in self.seconds))

    def __call__(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row for rows of ``counts`` tokens.

        Raises:
            RltrError: if a count is smaller than what was measured.
        """
        if bool((counts < self.counts[0]).any()):
            raise RltrError(
                f"the latency table begins at {self.counts[0]} tokens per row, but was asked for "
                f"{counts.min().item():g}. Measure it again with LatencyCost.measure(…)"
            )
        knots, values = _tensors(self, counts.device, counts.dtype)
        return interpolate(knots, values, counts)


@lru_cache(maxsize=256)
def _tensors(table: Table, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # Kept, because a copy to a GPU on every lookup would stall it. Made as ordinary tensors even when the first lookup
    # happens in inference mode, because a later one may be part of a loss.
    with torch.inference_mode(False):
        return (
            torch.tensor(table.counts, device=device, dtype=dtype),
            torch.tensor(table.seconds, device=device, dtype=dtype),
        )
