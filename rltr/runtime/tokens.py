"""The ragged batch: which tokens of each row are still processed, and pure functions on such batches.

The kept tokens of all rows are packed into one axis, row by row and in their original order. So linear layers, norms
and MLPs run on exactly the kept tokens.

Axes: ``rows`` inputs of a batch; ``grid`` original tokens per row; ``total`` packed tokens of all rows; ``longest``
tokens of the longest row. A token's *position* is its original index in its row, its *slot* the current one.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rltr.system.device import on_device


@dataclass(frozen=True)
class Tokens:
    """Index of a ragged batch.

    Attributes:
        row: row of each packed token; never decreases.
        position: original index of each token in its row, 0 to ``grid - 1``; increases within a row.
        counts: tokens of each row, as Python numbers, so that reading them does not synchronise with an accelerator.
        grid: original tokens per row, padding included.
        size: number of original tokens merged into each token, itself included; None before any merge.
        first: position of each row's first token, which is always kept; None if it is 0 in every row.
    """

    row: Int[Tensor, " total"]
    position: Int[Tensor, " total"]
    counts: tuple[int, ...]
    grid: int
    size: Float[Tensor, " total"] | None = None
    first: Int[Tensor, " rows"] | None = None

    @property
    def total(self) -> int:
        """Number of tokens in all rows."""
        return len(self.row)

    @cached_property
    def uniform(self) -> int | None:
        """Tokens per row if all rows have equally many, else None."""
        return self.counts[0] if len(set(self.counts)) == 1 else None

    @cached_property
    def count(self) -> Int[Tensor, " rows"]:
        """:attr:`counts` as a tensor on the device."""
        if self.uniform is not None:  # no copy to the device needed
            return torch.full((len(self.counts),), self.uniform, device=self.row.device)
        return on_device(self.counts, self.row.device)

    @cached_property
    def start(self) -> Int[Tensor, " rows"]:
        """Packed index of each row's first token."""
        return self.count.cumsum(0) - self.count

    def pooled(self, which: Literal["first", "last"]) -> Int[Tensor, " rows"]:
        """Packed index of each row's first or last token."""
        return self.start if which == "first" else self.start + self.count - 1

    @cached_property
    def slot(self) -> Int[Tensor, " total"]:
        """Current index of each token in its row, 0 to the row's count minus 1."""
        if self.uniform == self.grid:
            return self.position
        return torch.arange(self.total, device=self.row.device) - self.start.index_select(0, self.row)

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest row."""
        return max(self.counts)

    @cached_property
    def spread(self) -> Int[Tensor, "rows longest"]:
        """Packed index of the token at each place of a padded batch; padding repeats the row's last token.

        Rows without tokens repeat tokens of other rows.
        """
        return self._spread(self.longest)

    def _spread(self, length: int) -> Int[Tensor, "rows length"]:
        slot = torch.arange(length, device=self.row.device)
        index = torch.minimum(slot, self.count[:, None] - 1).add_(self.start[:, None])
        # The clamp keeps the index of rows without tokens in range.
        return index if min(self.counts) else index.clamp_(0, self.total - 1)

    def padded_index(self, length: int) -> Int[Tensor, " total"]:
        """Index of each token in a flattened ``(rows, length)`` batch."""
        return self._longest_index if length == self.longest else self.row * length + self.slot

    @cached_property
    def _longest_index(self) -> Int[Tensor, " total"]:
        """:meth:`padded_index` for the longest row, cached because it is used several times per decision."""
        device = self.row.device
        # Padding before each row.
        ahead = torch.arange(len(self.counts), device=device).mul_(self.longest).sub_(self.start)
        return ahead.index_select(0, self.row).add_(torch.arange(self.total, device=device))

    @cached_property
    def grid_index(self) -> Int[Tensor, " total"]:
        """Index of each token in a flattened ``(rows, grid)`` batch."""
        if self.uniform == self.grid:
            return torch.arange(self.total, device=self.row.device)
        return self.row * self.grid + self.position

    @cached_property
    def place(self) -> Int[Tensor, " total"]:
        """Position of each token relative to its row's first token, so that left padding has no effect."""
        return self.position if self.first is None else self.position - self.first.index_select(0, self.row)

    @cached_property
    def log_size(self) -> Float[Tensor, " total"]:
        """Logarithm of the sizes, to add to the attention logits of each key; ``size`` must not be None."""
        assert self.size is not None
        return self.size.log()

    @cached_property
    def present(self) -> Bool[Tensor, "rows grid"]:
        """Which original tokens are still in the batch."""
        flat = torch.zeros(len(self.counts) * self.grid, dtype=torch.bool, device=self.row.device)
        flat[self.grid_index] = True
        return flat.view(len(self.counts), self.grid)


def full_batch(rows: int, grid: int, device: torch.device | str = "cpu") -> Tokens:
    """Make a batch in which every row has all of its ``grid`` tokens."""
    row = torch.arange(rows, device=device).repeat_interleave(grid)
    return Tokens(row, torch.arange(grid, device=device).repeat(rows), (grid,) * rows, grid)


def pack(present: Bool[Tensor, "rows grid"]) -> Tokens:
    """Make a batch of the tokens marked in ``present``, such as a padding mask."""
    row, position = present.nonzero(as_tuple=True)
    first = None if bool(present[:, :1].all()) else present.byte().argmax(1)
    count = present.sum(1)
    return with_count(Tokens(row, position, tuple(count.tolist()), present.shape[1], first=first), count)


def keep(tokens: Tokens, kept: Bool[Tensor, " total"]) -> Tokens:
    """Keep the tokens marked in ``kept``; rows may differ in length then, and may be empty."""
    return select(tokens, where(kept))


def select(tokens: Tokens, index: Int[Tensor, " kept"]) -> Tokens:
    """Keep the tokens at packed indices ``index``, which must be ascending."""
    row = tokens.row.index_select(0, index)
    # Unlike bincount, this does not synchronise with an accelerator.
    count = row.new_zeros(len(tokens.counts)).index_add_(0, row, torch.ones_like(row))
    size = None if tokens.size is None else tokens.size.index_select(0, index)
    position, counts = tokens.position.index_select(0, index), tuple(count.tolist())
    return with_count(replace(tokens, row=row, position=position, counts=counts, size=size), count)


def with_count(tokens: Tokens, count: Int[Tensor, " rows"]) -> Tokens:
    """Set the cached ``count`` of ``tokens`` in place, where it is on the device already."""
    vars(tokens)["count"] = count  # where the cached property stores it
    return tokens


def where(marked: Bool[Tensor, " total"]) -> Int[Tensor, " marked"]:
    """Return packed indices of the marked tokens, ascending.

    On a CPU, ``index_select`` with them is several times faster than indexing with the mask.
    """
    return marked.nonzero()[:, 0]


def take(values: Shaped[Tensor, "total *rest"], marked: Bool[Tensor, " total"]) -> Shaped[Tensor, "marked *rest"]:
    """Return the values of the marked tokens."""
    return values.index_select(0, where(marked))


def pad(
    values: Shaped[Tensor, "total *rest"], tokens: Tokens, value: float | bool = 0.0, length: int | None = None
) -> Shaped[Tensor, "rows length *rest"]:
    """Pad packed values to ``(rows, length)`` with ``value``.

    ``length`` must be at least the number of tokens of the longest row, which is the default.
    """
    rows, length, rest = len(tokens.counts), length or tokens.longest, values.shape[1:]
    if tokens.uniform == length:
        return values.view(rows, length, *rest)
    padded = values.new_full((rows, length, *rest), value)
    if tokens.uniform is not None:
        padded[:, : tokens.uniform] = values.view(rows, tokens.uniform, *rest)
    else:
        padded.flatten(0, 1).index_copy_(0, tokens.padded_index(length), values)
    return padded


def unpad(padded: Shaped[Tensor, "rows length *rest"], tokens: Tokens) -> Shaped[Tensor, "total *rest"]:
    """Undo :func:`pad`."""
    if tokens.uniform is not None:
        return padded[:, : tokens.uniform].flatten(0, 1)
    return padded.flatten(0, 1).index_select(0, tokens.padded_index(padded.shape[1]))


def pad_with_own_tokens(
    values: Shaped[Tensor, "total *rest"], tokens: Tokens, length: int
) -> Shaped[Tensor, "rows length *rest"]:
    """Pad packed values to ``(rows, length)`` with copies of each row's own tokens: a single gather.

    Results for padding are finite where those of the row are. Rows without tokens get copies from other rows.
    """
    if tokens.uniform == length:
        return pad(values, tokens)
    index = tokens.spread if length == tokens.longest else tokens._spread(length)
    return values.index_select(0, index.flatten()).unflatten(0, index.shape)


def rank(score: Float[Tensor, " total"], tokens: Tokens) -> Int[Tensor, " total"]:
    """Rank tokens within their row by descending ``score``, from 0; of equal scores, the earlier token comes first."""
    order = pad(score, tokens, -torch.inf).argsort(dim=1, descending=True, stable=True)
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return unpad(torch.empty_like(order).scatter_(1, order, place), tokens)


def row_sum(values: Float[Tensor, "total *rest"], tokens: Tokens) -> Float[Tensor, "rows *rest"]:
    """Sum the values of each row's tokens."""
    if tokens.uniform is not None:
        return pad(values, tokens).sum(1)
    return values.new_zeros(len(tokens.counts), *values.shape[1:]).index_add_(0, tokens.row, values)


def precise(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which to accumulate numbers of ``dtype``: their own, or float32 for half precision."""
    return torch.promote_types(dtype, torch.float32)


def scatter_to_grid(tokens: Tokens, values: Shaped[Tensor, "total *rest"]) -> Shaped[Tensor, "rows grid *rest"]:
    """Scatter packed values to their original positions, zeros elsewhere."""
    grid = values.new_zeros(len(tokens.counts) * tokens.grid, *values.shape[1:])
    return grid.index_copy_(0, tokens.grid_index, values).view(len(tokens.counts), tokens.grid, *values.shape[1:])
