"""Ragged batches with queries, keys and values, and plain softmax attention to compare with."""

from dataclasses import replace

import torch
from hypothesis import strategies as st
from transformers.masking_utils import (
    causal_mask_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from rltr.runtime import kernels
from rltr.runtime import tokens as ragged
from rltr.runtime.kernels import FULL_ATTENTION, Plan
from rltr.runtime.pattern import Pattern

HEADS, WIDTH = 2, 8
COUNTS = st.lists(st.integers(1, 6), min_size=1, max_size=4)
SCALES = st.sampled_from([WIDTH**-0.5, 1.0, 0.1])


def batch(counts, sized, seed, dtype=torch.float32):
    """Random tokens, and packed queries, keys and values in the shape in which the layers get them."""
    tokens = ragged.pack(torch.arange(max(counts) + 1) < torch.tensor(counts)[:, None])
    generator = torch.Generator().manual_seed(seed)
    if sized:
        size = torch.randint(1, 40, (tokens.total,), generator=generator).to(ragged.precise(dtype))
        tokens = replace(tokens, size=size)
    packed = torch.randn(3, tokens.total, HEADS, WIDTH, generator=generator).to(dtype)
    shape = (1, tokens.total) if tokens.uniform is None else (len(counts), tokens.uniform)
    return tokens, [tensor.view(*shape, HEADS, WIDTH).transpose(1, 2) for tensor in packed]


def plain(query, key, value, tokens, scaling, pattern=FULL_ATTENTION):
    """Softmax attention within each row, with log(size) as a bias, computed in float64; packed."""
    precision = ragged.precise(query.dtype)
    query, key, value = (tensor.transpose(1, 2).flatten(0, 1).double() for tensor in (query, key, value))
    key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], 1) for tensor in (key, value))
    out = torch.empty_like(query)
    for row in range(len(tokens.counts)):
        own = tokens.row == row
        logits = torch.einsum("qhw,khw->hqk", query[own], key[own]) * scaling
        if pattern.softcap is not None:
            logits = pattern.softcap * (logits / pattern.softcap).tanh()
        if tokens.size is not None:
            logits = logits + tokens.size[own].double().log()
        if pattern.allowed is not None:
            places = tokens.position[own]
            seen = pattern.allowed(torch.tensor(row), 0, places[:, None], places[None])
            logits = logits.masked_fill(~seen, -torch.inf)
        if pattern.sinks is not None:
            sinks = pattern.sinks.double()[:, None, None].expand(-1, logits.shape[1], 1)
            logits = torch.cat([logits, sinks], -1)
        out[own] = torch.einsum("hqk,khw->qhw", logits.softmax(-1)[..., : int(own.sum())], value[own])
    return out.to(precision)


PATTERNS = {
    "full": FULL_ATTENTION,
    "causal": Pattern(causal_mask_function),
    "causal window": Pattern(sliding_window_causal_mask_function(3)),
    "window": Pattern(sliding_window_bidirectional_mask_function(2)),
    "capped": Pattern(causal_mask_function, softcap=0.5),
    "sinks": Pattern(sliding_window_causal_mask_function(4), sinks=torch.tensor([0.3, -1.0])),
}


def attend(query, key, value, tokens, scaling, pattern=FULL_ATTENTION, backend="auto"):
    return kernels.ragged_attention(query, key, value, Plan(tokens, backend), scaling, pattern)


ON_CPU = ("auto", "sdpa-per-row", "sdpa-grouped", "sdpa-padded")
