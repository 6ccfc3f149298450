"""Group the rows of a ragged batch, one attention call per group, each padded to its own longest row.

Padding holds copies of the row's first token. So a group is a single gather, results for padding are finite if those of
the row are, and a NaN stays in its row.
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
    """Groups of rows, and the index of their tokens. The axis ``places`` is all groups' padded rows, flattened.

    Attributes:
        shapes: number of rows and padded length of each group.
        padded: for each group, whether it has padding.
        gather: packed index of the token at each place; None if the packed order needs no change.
        place: place of each packed token; None if the packed order needs no change.
    """

    shapes: tuple[tuple[int, int], ...]
    padded: tuple[bool, ...]
    gather: Int[Tensor, " places"] | None = None
    place: Int[Tensor, " total"] | None = None

    @property
    def sizes(self) -> list[int]:
        """Number of places of each group."""
        return [rows * length for rows, length in self.shapes]

    def arrange(self, packed: Float[Tensor, "1 heads total width"]) -> list[Float[Tensor, "_rows heads _length width"]]:
        """Split a packed tensor into padded groups; views if the packed order needs no change."""
        if self.gather is not None:
            # In the layout (tokens, heads, width), that of linear layers' outputs, a token is contiguous.
            packed = packed[0].transpose(0, 1).index_select(0, self.gather).transpose(0, 1)[None]
        parts = packed.split(self.sizes, 2)
        return [
            part if rows == 1 else part[0].unflatten(1, (rows, length)).transpose(0, 1)
            for part, (rows, length) in zip(parts, self.shapes, strict=True)
        ]

    def collect(
        self, parts: Sequence[Float[Tensor, "_rows heads _length width"]]
    ) -> Float[Tensor, "1 total heads width"]:
        """Undo :meth:`arrange`, with the token axis before the heads."""
        return self._in_order(torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts]))[None]

    def _in_order(self, grouped: Float[Tensor, "places heads width"]) -> Float[Tensor, "total heads width"]:
        return grouped if self.place is None else grouped.index_select(0, self.place)

    def pad_with(self, values: Shaped[Tensor, " total"], padding: float) -> list[Shaped[Tensor, "_rows _length"]]:
        """Split one number per token into groups, padded with ``padding``."""
        if self.place is not None and self.gather is not None:
            values = values.new_full(self.gather.shape, padding).index_copy_(0, self.place, values)
        return [part.view(shape) for part, shape in zip(values.split(self.sizes), self.shapes, strict=True)]

    def pad_with_first(self, values: Shaped[Tensor, " total"]) -> list[Shaped[Tensor, "_rows _length"]]:
        """Split one number per token into groups, padded with that of the row's first token."""
        if self.gather is not None:
            values = values.index_select(0, self.gather)
        return [part.view(shape) for part, shape in zip(values.split(self.sizes), self.shapes, strict=True)]


def one_group_per_row(tokens: Tokens) -> Groups:
    """Make every row a group of its own, without padding or copies."""
    return Groups(tuple((1, count) for count in tokens.counts), (False,) * len(tokens.counts))


def one_group(tokens: Tokens) -> Groups:
    """Put all rows into one group, padded to the longest row."""
    if tokens.uniform is not None:
        return Groups(((len(tokens.counts), tokens.uniform),), (False,))
    return make_groups(tokens, [_by_length(tokens)])


def groups_of_similar_length(tokens: Tokens, slack: float) -> Groups:
    """Group rows of similar length, so that padding costs each row at most ``slack`` pairs of tokens.

    A row of ``count`` tokens in a group padded to ``most`` wastes ``most² - count²`` pairs.
    """
    groups: list[list[int]] = []
    most = 0
    for row in _by_length(tokens):
        if not groups or most**2 - tokens.counts[row] ** 2 > slack:
            groups.append([])
            most = tokens.counts[row]
        groups[-1].append(row)
    return make_groups(tokens, groups)


def _by_length(tokens: Tokens) -> list[int]:
    """Rows that have tokens, longest first."""
    rows = [row for row, count in enumerate(tokens.counts) if count]
    return sorted(rows, key=lambda row: -tokens.counts[row])


def make_groups(tokens: Tokens, groups: Sequence[Sequence[int]]) -> Groups:
    """Make :class:`Groups` from lists of rows, each with its longest row first; rows without tokens are in none."""
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
