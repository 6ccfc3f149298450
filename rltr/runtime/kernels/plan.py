"""What attention needs to know of a ragged batch beyond its tokens, worked out once and used by every layer."""

from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from rltr.runtime.kernels.groups import Groups, one_by_one, similar, together
from rltr.runtime.kernels.names import Backend
from rltr.runtime.pattern import Pattern, visible
from rltr.runtime.tokens import Tokens

SMALL = 4_000
"""Tokens times channels of an average row, up to which copying rows into groups pays on a CPU: measured with 64 uneven
rows of 96 and 384 channels, with one thread and two. A call for each row takes 0.65 of the time at 8,000."""
CALL = 2**16
"""Pairs of tokens times channels that a CPU computes in the time that one more call takes."""


class Plan:
    """How the rows of one ragged batch are computed; made after a decision, valid until the next.

    Args:
        tokens: the ragged batch.
        backend: how uneven rows are computed.
    """

    def __init__(self, tokens: Tokens, backend: Backend = "auto") -> None:
        self.tokens = tokens
        self.backend = backend
        self._groups: dict[tuple[Backend, int], Groups] = {}
        self._masks: dict[object, list[Tensor | None]] = {}

    @cached_property
    def boundaries(self) -> Int[Tensor, " rows_and_one"]:
        """Packed index of each row's first token, and the total, as kernels for packed rows want them."""
        return F.pad(self.tokens.count.cumsum(0), (1, 0)).int()

    def groups(self, backend: Backend, channels: int) -> Groups:
        """The groups of rows that one call each computes.

        Args:
            backend: one of those for which rows are grouped; ``auto`` is the better of the two for a CPU.
            channels: of all heads together.
        """
        known = self._groups.get((backend, channels))
        if known is None:
            known = self._groups[backend, channels] = _grouped(self.tokens, backend, channels)
        return known

    def masks(self, groups: Groups, pattern: Pattern, dtype: torch.dtype, sized: bool) -> list[Tensor | None]:
        """For each group what is added to its logits: the logarithm of sizes, ``-inf`` where a query may not look.

        Args:
            groups: of :meth:`groups`.
            pattern: who attends to whom.
            dtype: of the queries.
            sized: whether sizes belong into it; they may also travel in extra channels.

        Returns:
            Tensors that broadcast to ``(rows, heads, queries, keys)``; None where nothing is to be added.
        """
        # Transformers makes its mask functions once per forward pass, so all layers of a kind ask with the same one.
        name = (id(groups), None if pattern.dense else pattern.allowed, dtype, sized)
        if name not in self._masks:
            self._masks[name] = self._new_masks(groups, pattern, dtype, sized)
        return self._masks[name]

    def _new_masks(self, groups: Groups, pattern: Pattern, dtype: torch.dtype, sized: bool) -> list[Tensor | None]:
        tokens = self.tokens
        sized = sized and tokens.size is not None
        bare = torch.zeros(tokens.total, dtype=dtype, device=tokens.row.device)
        biases = groups.of_keys(tokens.log_size.to(dtype) if sized else bare, -torch.inf)
        if pattern.dense:
            return [
                bias[:, None, None] if sized or padded else None
                for bias, padded in zip(biases, groups.padded, strict=True)
            ]
        assert pattern.allowed is not None
        rows, positions = groups.of_tokens(tokens.row), groups.of_tokens(tokens.position)
        return [
            bias[:, None, None].masked_fill(~visible(row[:, 0], position, pattern.allowed)[:, None], -torch.inf)
            for bias, row, position in zip(biases, rows, positions, strict=True)
        ]


def _grouped(tokens: Tokens, backend: Backend, channels: int) -> Groups:
    if tokens.uniform is not None or backend == "sdpa-padded":
        return together(tokens)
    if backend == "sdpa-grouped":
        return similar(tokens, CALL / channels)
    rows = len(tokens.counts)
    if backend == "auto" and tokens.total * channels <= SMALL * rows:
        groups = similar(tokens, CALL / channels)
        # Copying saves nothing else than calls.
        if 2 * len(groups.shapes) <= rows:
            return groups
    return one_by_one(tokens)
