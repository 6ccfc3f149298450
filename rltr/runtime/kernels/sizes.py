"""Pass sizes of merged tokens in extra channels of queries and keys, for fused kernels that take no mask."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rltr.runtime.tokens import Tokens

CHANNELS = 8
"""Channels added for the sizes; kernels need a multiple of 8 channels per head."""


def with_sizes(
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch key_heads length width"],
    value: Float[Tensor, "batch key_heads length width"],
    tokens: Tokens,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Append channels such that scaling * q'k' = scaling * qk + log(size): q gets a 1, k gets log(size) / scaling.

    Args:
        query: queries, of all packed tokens in the order of the batch.
        key: keys.
        value: values.
        tokens: the ragged batch, with sizes.
        scaling: factor of the dot products.

    Returns:
        Queries, keys and values with :data:`CHANNELS` more channels; those of the values are zeros.
    """
    batch, _, length, _ = query.shape
    one = query.new_zeros(CHANNELS)
    one[0] = 1
    logarithm = (tokens.log_size / scaling).to(key.dtype).view(batch, 1, length, 1)
    query = torch.cat([query, one.expand(*query.shape[:-1], CHANNELS)], -1)
    key = torch.cat([key, (logarithm * one).expand(*key.shape[:-1], CHANNELS)], -1)
    return query, key, F.pad(value, (0, CHANNELS))
