"""Latency tables of earlier versions: seconds per row at a few token counts, interpolated linearly."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rltr.errors import RltrError


def interpolate(
    knots: Float[Tensor, " knots"], values: Float[Tensor, " knots"], at: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Interpolate ``values`` at ascending ``knots`` linearly, and extrapolate with the last piece."""
    right: Int[Tensor, " rows"] = torch.searchsorted(knots, at, right=True).clamp(1, len(knots) - 1)
    left = right - 1
    share = (at - knots[left]) / (knots[right] - knots[left])
    # lerp is exact at both ends, so measured values are returned unchanged.
    return torch.lerp(values[left], values[right], share)


@dataclass(frozen=True)
class Table:
    """Seconds per row at ascending token counts. Calling it interpolates, and extrapolates beyond the last count.

    Inputs in production may be longer than those measured and must not fail. Because attention is quadratic, the
    extrapolated price is a little low.
    """

    counts: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse times that fall as tokens are added, or that cannot be interpolated."""
        rising = all(low < high for low, high in zip((-1, *self.counts), self.counts, strict=False))
        falling = any(low > high for low, high in zip(self.seconds, self.seconds[1:], strict=False))
        sound = all(0 <= value < float("inf") for value in self.seconds)
        if len(self.counts) < 2 or len(self.counts) != len(self.seconds) or not rising or falling or not sound:
            raise RltrError(
                "a latency table needs at least two ascending token counts and as many finite times that never fall, "
                f"got counts {list(self.counts)} and seconds {list(self.seconds)}. Measure it again"
            )

    @property
    def longest(self) -> int:
        """Largest measured number of tokens."""
        return self.counts[-1]

    def times(self, factor: float) -> "Table":
        """The table with all times multiplied by ``factor``."""
        return Table(self.counts, tuple(value * factor for value in self.seconds))

    def __call__(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row for rows of ``counts`` tokens.

        Raises:
            RltrError: if a count is below the smallest measured one.
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
    # Cached, because a copy to a GPU at every lookup would stall it. Not inference tensors even if the first lookup is
    # in inference mode, because a later one may be part of a loss.
    with torch.inference_mode(False):
        return (
            torch.tensor(table.counts, device=device, dtype=dtype),
            torch.tensor(table.seconds, device=device, dtype=dtype),
        )
