"""Queries and keys of the attention layer before a decision; its full attention weights are never computed."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from rltr.runtime import tokens as ragged
from rltr.runtime.families import PooledToken
from rltr.runtime.tokens import Tokens


@dataclass(frozen=True)
class Attended:
    """Queries and keys of one layer's attention over a ragged batch, without a copy.

    Attributes:
        query: queries. ``batch`` is the number of rows and ``length`` the tokens per row if all rows have the same
            number of tokens; otherwise ``batch`` is 1 and ``length`` the number of packed tokens.
        key: keys in the same layout; fewer heads with grouped-query attention.
        scaling: factor of the product of query and key.
        tokens: the ragged batch.
        pooled: which token of a row the model's head reads.
    """

    query: Float[Tensor, "batch heads length width"]
    key: Float[Tensor, "batch key_heads length width"]
    scaling: float
    tokens: Tokens
    pooled: PooledToken = "first"

    @cached_property
    def keys(self) -> Float[Tensor, "total width"]:
        """Keys averaged over heads."""
        return self.key.mean(1).flatten(0, 1)

    @property
    def from_pooled(self) -> Float[Tensor, " total"]:
        """Attention from the pooled token to every token of its row, averaged over heads; sums to 1 per row.

        It spans the whole row even if the layer itself uses windowed attention.
        """
        return ragged.unpad(self.padded_from_pooled, self.tokens)

    @cached_property
    def padded_from_pooled(self) -> Float[Tensor, "rows longest"]:
        """:attr:`from_pooled`, padded with 0 to the length of the longest row."""
        tokens = self.tokens
        query, key = self.query.transpose(1, 2).flatten(0, 1), self.key.transpose(1, 2).flatten(0, 1)
        pooled_query = query.index_select(0, tokens.pooled(self.pooled))
        if pooled_query.shape[1] != key.shape[1]:
            key = key.repeat_interleave(pooled_query.shape[1] // key.shape[1], 1)
        # A product and a sum: several times faster on a CPU than one matrix product per row.
        if tokens.uniform is not None:
            products = key.unflatten(0, (len(tokens.counts), tokens.uniform)) * pooled_query[:, None]
        else:
            products = pooled_query.index_select(0, tokens.row).mul_(key)
        logits = products.sum(-1).view(tokens.total, -1).to(ragged.precise(key.dtype)) * self.scaling
        if tokens.size is not None:
            logits = logits + tokens.log_size[:, None]
        # Contiguous, with tokens as the last axis: a softmax over any other axis is several times slower.
        return ragged.pad(logits, tokens, -torch.inf).transpose(1, 2).contiguous().softmax(-1).mean(1)
