"""Indices and masks that attention needs for a ragged batch, computed once and used by every layer."""

from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from rltr.runtime.kernels.groups import Groups, groups_of_similar_length, one_group, one_group_per_row
from rltr.runtime.kernels.names import Backend
from rltr.runtime.pattern import Pattern, visible
from rltr.runtime.tokens import Tokens

SMALL_ROW = 4_000
"""Largest average of tokens times channels per row for which a CPU groups rows: measured with 64 rows of different
lengths, 96 and 384 channels, one thread and two. At 8,000, one call per row takes 0.65 of the time of groups."""
CALL_COST = 2**16
"""Pairs of tokens times channels that a CPU computes in the time of one more call."""


class Plan:
    """How attention is computed for one ragged batch; made after a decision, valid until the next.

    Args:
        tokens: the ragged batch.
        backend: how rows of different lengths are computed.
    """

    def __init__(self, tokens: Tokens, backend: Backend = "auto") -> None:
        self.tokens = tokens
        self.backend = backend
        self._groups: dict[tuple[Backend, int], Groups] = {}
        self._masks: dict[object, list[Tensor | None]] = {}

    @cached_property
    def cu_seqlens(self) -> Int[Tensor, " rows_and_one"]:
        """Cumulative sequence lengths, starting with 0, as kernels for packed rows take them."""
        return F.pad(self.tokens.count.cumsum(0), (1, 0)).int()

    def groups(self, backend: Backend, channels: int) -> Groups:
        """Group the rows, one call per group; cached.

        Args:
            backend: ``sdpa-per-row``, ``sdpa-grouped``, ``sdpa-padded``, or ``auto`` for the better one of the first
                two on a CPU.
            channels: channels of all heads together.
        """
        known = self._groups.get((backend, channels))
        if known is None:
            known = self._groups[backend, channels] = _grouped(self.tokens, backend, channels)
        return known

    def masks(self, groups: Groups, pattern: Pattern, dtype: torch.dtype, sized: bool) -> list[Tensor | None]:
        """Make additive attention masks: log sizes, and ``-inf`` where a query may not attend to a key; cached.

        Args:
            groups: result of :meth:`groups`.
            pattern: the attention pattern.
            dtype: dtype of the queries.
            sized: whether to include log sizes; False where they are passed in extra channels.

        Returns:
            A tensor per group that broadcasts to ``(rows, heads, queries, keys)``; None where no mask is needed.
        """
        # Transformers makes mask functions once per forward pass, so layers of the same kind share one.
        name = (id(groups), None if pattern.dense else pattern.allowed, dtype, sized)
        if name not in self._masks:
            self._masks[name] = self._new_masks(groups, pattern, dtype, sized)
        return self._masks[name]

    def _new_masks(self, groups: Groups, pattern: Pattern, dtype: torch.dtype, sized: bool) -> list[Tensor | None]:
        tokens = self.tokens
        sized = sized and tokens.size is not None
        bare = torch.zeros(tokens.total, dtype=dtype, device=tokens.row.device)
        biases = groups.pad_with(tokens.log_size.to(dtype) if sized else bare, -torch.inf)
        if pattern.dense:
            return [
                bias[:, None, None] if sized or padded else None
                for bias, padded in zip(biases, groups.padded, strict=True)
            ]
        assert pattern.allowed is not None
        rows, positions = groups.pad_with_first(tokens.row), groups.pad_with_first(tokens.position)
        return [
            bias[:, None, None].masked_fill(~visible(row[:, 0], position, pattern.allowed)[:, None], -torch.inf)
            for bias, row, position in zip(biases, rows, positions, strict=True)
        ]


def _grouped(tokens: Tokens, backend: Backend, channels: int) -> Groups:
    if tokens.uniform is not None or backend == "sdpa-padded":
        return one_group(tokens)
    if backend == "sdpa-grouped":
        return groups_of_similar_length(tokens, CALL_COST / channels)
    rows = len(tokens.counts)
    if backend == "auto" and tokens.total * channels <= SMALL_ROW * rows:
        groups = groups_of_similar_length(tokens, CALL_COST / channels)
        # Copying rows only saves calls, so it must save many.
        if 2 * len(groups.shapes) <= rows:
            return groups
    return one_group_per_row(tokens)
