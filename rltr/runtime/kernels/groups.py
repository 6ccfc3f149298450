"""Rows of a ragged batch in groups that are computed together: each padded to its own longest row, or not at all.

A place of padding holds a copy of its own row's first token. So a group is one gather, without a tensor to be filled
first; what is computed for padding is finite where the row is; and a row's NaN reaches no other row, as 0 × NaN would.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from rltr.runtime.tokens import Tokens
from rltr.system.device import on_device


@dataclass(frozen=True)
class Groups:
    """Which rows are computed together, and where their tokens lie then.

    Attributes:
        shapes: rows and length of each group; groups lie behind one another in ``places``.
        padded: for each group, whether one of its rows is shorter than the others.
        gather: the packed token at each place; None if tokens stay where they are.
        place: where each packed token lies; None if tokens stay where they are.
    """

    shapes: tuple[tuple[int, int], ...]
    padded: tuple[bool, ...]
    gather: Int[Tensor, " places"] | None = None
    place: Int[Tensor, " total"] | None = None

    @property
    def sizes(self) -> list[int]:
        """Places of each group."""
        return [rows * length for rows, length in self.shapes]

    def arrange(self, packed: Float[Tensor, "1 heads total width"]) -> list[Float[Tensor, "_rows heads _length width"]]:
        """The groups' rows; views, if tokens stay where they are."""
        if self.gather is not None:
            # As (tokens, heads, width), which is how linear layers leave them, a token is one piece of memory.
            packed = packed[0].transpose(0, 1).index_select(0, self.gather).transpose(0, 1)[None]
        parts = packed.split(self.sizes, 2)
        return [
            part if rows == 1 else part[0].unflatten(1, (rows, length)).transpose(0, 1)
            for part, (rows, length) in zip(parts, self.shapes, strict=True)
        ]

    def collect(
        self, parts: Sequence[Float[Tensor, "_rows heads _length width"]]
    ) -> Float[Tensor, "1 total heads width"]:
        """Undo :meth:`arrange`, with tokens before heads."""
        return self._in_order(torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts]))[None]

    def _in_order(self, grouped: Float[Tensor, "places heads width"]) -> Float[Tensor, "total heads width"]:
        return grouped if self.place is None else grouped.index_select(0, self.place)

    def of_keys(self, values: Shaped[Tensor, " total"], padding: float) -> list[Shaped[Tensor, "_rows _length"]]:
        """One number per token as the groups have them, ``padding`` elsewhere."""
        if self.place is not None and self.gather is not None:
            values = values.new_full(self.gather.shape, padding).index_copy_(0, self.place, values)
        return [part.view(shape) for part, shape in zip(values.split(self.sizes), self.shapes, strict=True)]

    def of_tokens(self, values: Shaped[Tensor, " total"]) -> list[Shaped[Tensor, "_rows _length"]]:
        """One number per token as the groups have them; padding has its row's first."""
        if self.gather is not None:
            values = values.index_select(0, self.gather)
        return [part.view(shape) for part, shape in zip(values.split(self.sizes), self.shapes, strict=True)]


def one_by_one(tokens: Tokens) -> Groups:
    """A group for every row: no padding, and no token moves."""
    return Groups(tuple((1, count) for count in tokens.counts), (False,) * len(tokens.counts))


def together(tokens: Tokens) -> Groups:
    """All rows in one group, padded to the longest unless they have equally many tokens."""
    if tokens.uniform is not None:
        return Groups(((len(tokens.counts), tokens.uniform),), (False,))
    return arranged(tokens, [_by_length(tokens)])


def similar(tokens: Tokens, slack: float) -> Groups:
    """Rows of similar length, from the longest down: padding costs no row more than ``slack`` pairs of tokens.

    A row of ``count`` tokens in a group whose longest has ``most`` computes ``most² - count²`` pairs for nothing.
    """
    groups: list[list[int]] = []
    most = 0
    for row in _by_length(tokens):
        if not groups or most**2 - tokens.counts[row] ** 2 > slack:
            groups.append([])
            most = tokens.counts[row]
        groups[-1].append(row)
    return arranged(tokens, groups)


def _by_length(tokens: Tokens) -> list[int]:
    """Rows that have tokens, the longest first."""
    rows = [row for row, count in enumerate(tokens.counts) if count]
    return sorted(rows, key=lambda row: -tokens.counts[row])


def arranged(tokens: Tokens, groups: Sequence[Sequence[int]]) -> Groups:
    """The given groups of rows, the longest row of each first; rows without tokens are in none."""
    counts = tokens.counts
    shapes = tuple((len(group), counts[group[0]]) for group in groups)
    order = [row for group in groups for row in group]
    lengths = [length for rows, length in shapes for _ in range(rows)]
    begin, places = [0] * len(counts), 0
    for row, length in zip(order, lengths, strict=True):
        begin[row] = places
        places += length
    device = tokens.row.device
    place = on_device(begin, device).index_select(0, tokens.row) + tokens.slot
    first = tokens.start.index_select(0, on_device(order, device))
    gather = first.repeat_interleave(on_device(lengths, device), output_size=places)
    gather.index_copy_(0, place, torch.arange(tokens.total, device=device))
    padded = tuple(counts[group[-1]] < counts[group[0]] for group in groups)
    return Groups(shapes, padded, gather, place)
