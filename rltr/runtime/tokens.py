"""The ragged batch: which tokens of which row are still in the stream, and pure functions on such batches.

Kept tokens of all rows lie packed behind one another, row by row and in their original order, so linear layers, norms
and MLPs run on exactly the kept tokens. Nothing here knows about models, images or text.

Axes: ``rows`` inputs of a batch; ``grid`` original tokens per row; ``total`` packed tokens of all rows; ``most`` the
largest number of tokens any row has.
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
        row: the row each packed token belongs to; never decreases.
        position: its original place in its row, 0 to ``grid - 1``; increases within a row.
        counts: tokens of each row, as plain numbers: layers never wait for an accelerator to know them.
        grid: original tokens per row, padding included.
        size: how many original tokens each stands for (at least 1), or None while every one stands for itself.
        first: original place of each row's first token, which never leaves; None if that is 0 for every row.
    """

    row: Int[Tensor, " total"]
    position: Int[Tensor, " total"]
    counts: tuple[int, ...]
    grid: int
    size: Float[Tensor, " total"] | None = None
    first: Int[Tensor, " rows"] | None = None

    @property
    def total(self) -> int:
        """Tokens of all rows together."""
        return len(self.row)

    @cached_property
    def uniform(self) -> int | None:
        """The number of tokens of every row if all have equally many, else None."""
        return self.counts[0] if len(set(self.counts)) == 1 else None

    @cached_property
    def count(self) -> Int[Tensor, " rows"]:
        """``counts`` on the device."""
        if self.uniform is not None:  # nothing has to be brought there
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
        """Current place of each token within its row, 0 to the row's count minus 1."""
        if self.uniform == self.grid:
            return self.position
        return torch.arange(self.total, device=self.row.device) - self.start.index_select(0, self.row)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.counts)

    @cached_property
    def spread(self) -> Int[Tensor, "rows longest"]:
        """The packed token at each place of a ``(rows, longest)`` batch; behind a row's last token, that one again.

        Rows without tokens hold those of others.
        """
        return self._spread(self.longest)

    def _spread(self, length: int) -> Int[Tensor, "rows length"]:
        slot = torch.arange(length, device=self.row.device)
        index = torch.minimum(slot, self.count[:, None] - 1).add_(self.start[:, None])
        # Rows without tokens, the first and the last included.
        return index if min(self.counts) else index.clamp_(0, self.total - 1)

    def padded_index(self, length: int) -> Int[Tensor, " total"]:
        """Where each token lies in a flattened ``(rows, length)`` batch."""
        return self._longest_index if length == self.longest else self.row * length + self.slot

    @cached_property
    def _longest_index(self) -> Int[Tensor, " total"]:
        """Asked for several times per decision, and as long as the batch."""
        device = self.row.device
        # Places of padding before each row.
        ahead = torch.arange(len(self.counts), device=device).mul_(self.longest).sub_(self.start)
        return ahead.index_select(0, self.row).add_(torch.arange(self.total, device=device))

    @cached_property
    def grid_index(self) -> Int[Tensor, " total"]:
        """Where each token lies in a flattened ``(rows, grid)`` batch."""
        if self.uniform == self.grid:
            return torch.arange(self.total, device=self.row.device)
        return self.row * self.grid + self.position

    @cached_property
    def place(self) -> Int[Tensor, " total"]:
        """Original place of each token, counted from its row's first one.

        Unlike ``position`` it does not depend on how much padding stands at the start of the row.
        """
        return self.position if self.first is None else self.position - self.first.index_select(0, self.row)

    @cached_property
    def log_size(self) -> Float[Tensor, " total"]:
        """Logarithm of the sizes, which there must be: what is added to the logits of attending to each token."""
        assert self.size is not None
        return self.size.log()

    @cached_property
    def present(self) -> Bool[Tensor, "rows grid"]:
        """Which original tokens are still in the stream."""
        flat = torch.zeros(len(self.counts) * self.grid, dtype=torch.bool, device=self.row.device)
        flat[self.grid_index] = True
        return flat.view(len(self.counts), self.grid)


def everything(rows: int, grid: int, device: torch.device | str = "cpu") -> Tokens:
    """A batch in which every row has all of its ``grid`` tokens."""
    row = torch.arange(rows, device=device).repeat_interleave(grid)
    return Tokens(row, torch.arange(grid, device=device).repeat(rows), (grid,) * rows, grid)


def pack(present: Bool[Tensor, "rows grid"]) -> Tokens:
    """The tokens marked in ``present``, for instance those that are not padding."""
    row, position = present.nonzero(as_tuple=True)
    first = None if bool(present[:, :1].all()) else present.byte().argmax(1)
    count = present.sum(1)
    return counted(Tokens(row, position, tuple(count.tolist()), present.shape[1], first=first), count)


def keep(tokens: Tokens, kept: Bool[Tensor, " total"]) -> Tokens:
    """The tokens marked in ``kept``; rows may become uneven, and even empty."""
    return select(tokens, where(kept))


def select(tokens: Tokens, index: Int[Tensor, " kept"]) -> Tokens:
    """The tokens at packed places ``index``, which must rise."""
    row = tokens.row.index_select(0, index)
    # Unlike a bincount, this does not make the host wait for an accelerator.
    count = row.new_zeros(len(tokens.counts)).index_add_(0, row, torch.ones_like(row))
    size = None if tokens.size is None else tokens.size.index_select(0, index)
    position, counts = tokens.position.index_select(0, index), tuple(count.tolist())
    return counted(replace(tokens, row=row, position=position, counts=counts, size=size), count)


def counted(tokens: Tokens, count: Int[Tensor, " rows"]) -> Tokens:
    """The same tokens, whose ``count`` is known on the device already and need not be brought there."""
    vars(tokens)["count"] = count  # where the cached property keeps it
    return tokens


def where(marked: Bool[Tensor, " total"]) -> Int[Tensor, " marked"]:
    """Packed indices of the marked tokens, rising.

    Gathering with them through ``index_select`` is several times faster on a CPU than with the mask itself.
    """
    return marked.nonzero()[:, 0]


def take(values: Shaped[Tensor, "total *rest"], marked: Bool[Tensor, " total"]) -> Shaped[Tensor, "marked *rest"]:
    """The values of the marked tokens."""
    return values.index_select(0, where(marked))


def pad(
    values: Shaped[Tensor, "total *rest"], tokens: Tokens, value: float | bool = 0.0, length: int | None = None
) -> Shaped[Tensor, "rows length *rest"]:
    """Lay packed values out as a rectangle, ``value`` where a row has fewer than ``length`` tokens.

    ``length`` is at least what the longest row has, and None means exactly that.
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


def lay_out(values: Shaped[Tensor, "total *rest"], tokens: Tokens, length: int) -> Shaped[Tensor, "rows length *rest"]:
    """:func:`pad` with copies of a row's own tokens as padding: one gather, without a rectangle to be filled first.

    What is computed of padding is finite where its row is. Rows without tokens hold those of others.
    """
    if tokens.uniform == length:
        return pad(values, tokens)
    index = tokens.spread if length == tokens.longest else tokens._spread(length)
    return values.index_select(0, index.flatten()).unflatten(0, index.shape)


def rank(score: Float[Tensor, " total"], tokens: Tokens) -> Int[Tensor, " total"]:
    """Place of each token in its own row by falling ``score``: 0 has the highest. Ties go to the earlier token."""
    order = pad(score, tokens, -torch.inf).argsort(dim=1, descending=True, stable=True)
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return unpad(torch.empty_like(order).scatter_(1, order, place), tokens)


def row_sum(values: Float[Tensor, "total *rest"], tokens: Tokens) -> Float[Tensor, "rows *rest"]:
    """Sum of the values of each row's tokens."""
    if tokens.uniform is not None:
        return pad(values, tokens).sum(1)
    return values.new_zeros(len(tokens.counts), *values.shape[1:]).index_add_(0, tokens.row, values)


def precise(dtype: torch.dtype) -> torch.dtype:
    """The precision in which sums are taken of numbers in ``dtype``: their own, and at least float32."""
    return torch.promote_types(dtype, torch.float32)


def grid_of(tokens: Tokens, values: Shaped[Tensor, "total *rest"]) -> Shaped[Tensor, "rows grid *rest"]:
    """Scatter packed values to their original places, zeros elsewhere."""
    grid = values.new_zeros(len(tokens.counts) * tokens.grid, *values.shape[1:])
    return grid.index_copy_(0, tokens.grid_index, values).view(len(tokens.counts), tokens.grid, *values.shape[1:])
