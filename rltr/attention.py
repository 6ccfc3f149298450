"""Attention over a ragged batch, registered with transformers as the attention implementation ``"rltr"``.

Without a ragged batch in the current context the function is transformers' own ``sdpa``, so a model that carries it
behaves as usual for everybody else: other threads, other greenlets, evaluations in the middle of a rollout.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rltr import tokens as ragged
from rltr.attended import Attended
from rltr.tokens import Tokens

IMPLEMENTATION = "rltr"
"""Name under which transformers knows this attention."""
SHORT = 1280
"""Tokens of the longest row times head width, up to which padding uneven rows beats a call per row on a CPU."""
CHANNELS = 8
"""Channels added for the sizes: kernels want head sizes that are multiples of 8."""


@dataclass
class Stream:
    """The token stream of one forward pass, as its layers see it.

    Attributes:
        tokens: the ragged batch between the first and the last layer, None outside of them.
    """

    tokens: Tokens | None = None

    def saw(self, attended: Attended) -> None:
        """Called with what every ragged attention works on."""


current: ContextVar[Stream | None] = ContextVar("rltr_stream", default=None)
"""The forward pass of this thread or greenlet that rltr runs; None lets every hook and function pass things on."""


def attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch heads length width"],
    value: Float[Tensor, "batch heads length width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch length heads width"], None]:
    """The attention function that transformers calls.

    With a ragged batch, ``batch`` is 1 and ``length`` its packed tokens, or, when all rows have equally many,
    the rows and their tokens. No attention weights are computed, so fused kernels stay on.
    """
    stream = current.get()
    if stream is None or stream.tokens is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    stream.saw(Attended(query, key, scaling, stream.tokens))
    return ragged_attention(query, key, value, stream.tokens, scaling), None


def mask(
    batch_size: int, q_length: int, kv_length: int, attention_mask: Tensor | None = None, **kwargs: Any
) -> Tensor | None:
    """The mask function that goes with :func:`attention`: padding is dropped before the first layer, not masked."""
    if current.get() is None:
        return sdpa_mask(batch_size, q_length, kv_length, attention_mask=attention_mask, **kwargs)
    return attention_mask


def ragged_attention(
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch heads length width"],
    value: Float[Tensor, "batch heads length width"],
    tokens: Tokens,
    scaling: float,
) -> Float[Tensor, "batch length heads width"]:
    """Softmax attention of every row's tokens to each other, and to no other row's.

    Once tokens have sizes, a token of size s is attended like s equal tokens: log(size) is added to its logits (ToMe,
    section 3). Where a bias keeps fused kernels off, it travels in extra channels of queries and keys; on a CPU the
    fused kernel takes a bias, and copying queries and keys to widen them costs more.
    """
    attend = _on_cpu if query.device.type == "cpu" else _on_accelerator
    return attend(query, key, value, tokens, scaling)


def _on_accelerator(query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, scaling: float) -> Tensor:
    """One fused call, with sizes in extra channels."""
    width = value.shape[-1]
    if tokens.size is not None:
        query, key, value = _with_sizes(query, key, value, tokens, scaling)
    if tokens.uniform is not None:
        out = F.scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2)
    else:
        out = _padded(query, key, value, tokens, scaling)
    return out[..., :width]


def _on_cpu(query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, scaling: float) -> Tensor:
    """One fused call for even rows, else one per row, on views: calls are cheap, and no padding is multiplied."""
    attend = partial(F.scaled_dot_product_attention, scale=scaling)
    bias = None if tokens.size is None else tokens.log_size
    if tokens.uniform is not None:
        everyone = None if bias is None else bias.view(len(tokens.counts), 1, 1, -1)
        return attend(query, key, value, everyone).transpose(1, 2)
    if max(tokens.counts) * query.shape[-1] <= SHORT and query.dtype == torch.float32:
        return _padded_products(query, key, value, tokens, scaling)
    rows = zip(*(tensor.split(tokens.counts, 2) for tensor in (query, key, value)), strict=True)
    if bias is None:
        return torch.cat([attend(q, k, v).transpose(1, 2) for q, k, v in rows], 1)
    biases = bias.view(1, 1, 1, -1).split(tokens.counts, 3)
    return torch.cat(
        [attend(q, k, v, own).transpose(1, 2) for (q, k, v), own in zip(rows, biases, strict=True)],
        1,
    )


def _padded_products(query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, scaling: float) -> Tensor:
    """Three batched operations on padded rows: so few tokens cost less than a call per row."""
    log_size = query.new_zeros(tokens.total) if tokens.size is None else tokens.log_size
    bias = ragged.pad(log_size, tokens, -torch.inf)[:, None, None]
    query, key, value = (
        ragged.pad(tensor[0].transpose(0, 1), tokens).transpose(1, 2) for tensor in (query, key, value)
    )
    weights = (query @ key.transpose(2, 3)).mul_(scaling).add_(bias).softmax(-1)
    return ragged.unpad((weights @ value).transpose(1, 2), tokens)[None]


def _with_sizes(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Append channels such that scaling * q'k' = scaling * qk + log(size): q gets a 1, k gets log(size) / scaling."""
    batch, _, length, _ = query.shape
    one = query.new_zeros(CHANNELS)
    one[0] = 1
    logarithm = (tokens.log_size / scaling).to(key.dtype).view(batch, 1, length, 1)
    query = torch.cat([query, one.expand(*query.shape[:-1], CHANNELS)], -1)
    key = torch.cat([key, (logarithm * one).expand(*key.shape[:-1], CHANNELS)], -1)
    return query, key, F.pad(value, (0, CHANNELS))


def _padded(query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, scaling: float) -> Tensor:
    """One fused call on rows padded to the longest, with a key mask: for devices where calls are dear."""
    there = torch.arange(max(tokens.counts), device=query.device) < tokens.count[:, None]
    query, key, value = (
        ragged.pad(tensor[0].transpose(0, 1), tokens).transpose(1, 2) for tensor in (query, key, value)
    )
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None], scale=scaling)
    return ragged.unpad(out.transpose(1, 2), tokens)[None]


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, mask)
