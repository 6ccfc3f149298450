"""Ragged attention equals plain softmax attention of each row; without a ragged batch it is transformers' own sdpa."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    causal_mask_function,
    sdpa_mask,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from rltr import attention as door
from rltr import kernels
from rltr import tokens as ragged
from rltr.attention import Stream, current
from rltr.kernels import EVERYONE
from rltr.pattern import Pattern

HEADS, WIDTH = 2, 8
COUNTS = st.lists(st.integers(1, 6), min_size=1, max_size=4)
SCALES = st.sampled_from([WIDTH**-0.5, 1.0, 0.1])


def batch(counts, sized, seed, dtype=torch.float32):
    """Tokens, and packed queries, keys and values in the shape in which the layers see them."""
    tokens = ragged.pack(torch.arange(max(counts) + 1) < torch.tensor(counts)[:, None])
    generator = torch.Generator().manual_seed(seed)
    if sized:
        size = torch.randint(1, 40, (tokens.total,), generator=generator).float()
        tokens = replace(tokens, size=size)
    packed = torch.randn(3, tokens.total, HEADS, WIDTH, generator=generator).to(dtype)
    shape = (1, tokens.total) if tokens.uniform is None else (len(counts), tokens.uniform)
    return tokens, [tensor.view(*shape, HEADS, WIDTH).transpose(1, 2) for tensor in packed]


def plain(query, key, value, tokens, scaling, pattern=EVERYONE):
    """Softmax attention with log(size) as a bias, a row and a pair of tokens at a time, in float64; packed."""
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
    return out.float()


PATTERNS = {
    "everyone": EVERYONE,
    "causal": Pattern(causal_mask_function),
    "causal window": Pattern(sliding_window_causal_mask_function(3)),
    "window": Pattern(sliding_window_bidirectional_mask_function(2)),
    "capped": Pattern(causal_mask_function, softcap=0.5),
    "sinks": Pattern(sliding_window_causal_mask_function(4), sinks=torch.tensor([0.3, -1.0])),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@given(counts=COUNTS, sized=st.booleans(), shared=st.booleans(), gaps=st.booleans(), seed=st.integers(0, 1000))
def test_every_pattern_equals_plain_softmax(pattern, counts, sized, shared, gaps, seed):
    """Causality, windows in original positions, capped logits and sinks, with keys that queries share or not."""
    tokens, (query, key, value) = batch(counts, sized, seed)
    if gaps:
        tokens = replace(tokens, position=3 * tokens.position + 1, grid=3 * tokens.grid + 1)
    if shared:
        key, value = key[:, :1], value[:, :1]
    expected = plain(query, key, value, tokens, 0.4, PATTERNS[pattern])
    out = kernels.ragged_attention(query, key, value, tokens, 0.4, PATTERNS[pattern])
    torch.testing.assert_close(out.flatten(0, 1), expected, atol=1e-6, rtol=1e-6)
    if PATTERNS[pattern].fused and (PATTERNS[pattern].dense or PATTERNS[pattern].causal):
        padded = kernels._on_accelerator(query, key, value, tokens, 0.4, PATTERNS[pattern])
        torch.testing.assert_close(padded.flatten(0, 1), expected, atol=1e-6, rtol=1e-6)


@given(COUNTS, st.booleans(), SCALES, st.integers(0, 1000))
def test_ragged_attention_equals_plain_softmax(counts, sized, scaling, seed):
    tokens, qkv = batch(counts, sized, seed)
    out = kernels.ragged_attention(*qkv, tokens, scaling)
    assert out.shape == (*qkv[0].transpose(1, 2).shape,)
    torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, scaling), atol=1e-6, rtol=1e-6)


@given(COUNTS, st.booleans(), SCALES, st.integers(0, 1000))
def test_what_accelerators_run_equals_plain_softmax(counts, sized, scaling, seed):
    """Sizes in extra channels, and uneven rows padded: run here without the device."""
    tokens, qkv = batch(counts, sized, seed)
    out = kernels._on_accelerator(*qkv, tokens, scaling)
    torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, scaling), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("counts", [(4, 4, 4), (5, 2, 1)])
def test_a_size_is_as_many_equal_tokens(counts):
    tokens, (query, key, value) = batch(counts, True, 0)
    tokens = replace(tokens, size=torch.randint(1, 4, (tokens.total,)).float())
    out = kernels.ragged_attention(query, key, value, tokens, 0.3).flatten(0, 1)
    times = tokens.size.long()
    again = tokens.row.repeat_interleave(times), tokens.position.repeat_interleave(times)
    many = replace(tokens, row=again[0], position=again[1], size=None)
    packed = [tensor.transpose(1, 2).flatten(0, 1).repeat_interleave(times, 0) for tensor in (query, key, value)]
    repeated = plain(*(tensor[None].transpose(1, 2) for tensor in packed), many, 0.3)
    first = times.cumsum(0) - times
    torch.testing.assert_close(out, repeated[first], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("counts", [(4, 4, 4), (5, 2, 1)])
def test_sizes_of_one_change_nothing(counts):
    tokens, qkv = batch(counts, False, 0)
    ones = replace(tokens, size=torch.ones(tokens.total))
    torch.testing.assert_close(
        kernels.ragged_attention(*qkv, ones, 0.3), kernels.ragged_attention(*qkv, tokens, 0.3), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("counts", [(4, 4), (5, 2)])
def test_a_row_never_sees_another(counts):
    tokens, (query, key, value) = batch(counts, True, 0)
    before = kernels.ragged_attention(query, key, value, tokens, 0.3).flatten(0, 1)
    other = (tokens.row == 1).view(query.shape[0], 1, -1, 1)
    after = kernels.ragged_attention(
        query.where(~other, 9.0), key.where(~other, 9.0), value.where(~other, torch.nan), tokens, 0.3
    ).flatten(0, 1)
    assert torch.equal(before[tokens.row == 0], after[tokens.row == 0])


@pytest.mark.parametrize("attend", [kernels._on_cpu, kernels._on_accelerator])
@pytest.mark.parametrize("counts", [(6, 6), (7, 3)])
def test_in_bfloat16_only_rounding_is_lost(counts, attend):
    tokens, qkv = batch(counts, True, 0, torch.bfloat16)
    exact = plain(*qkv, tokens, 0.3)
    out = attend(*qkv, tokens, 0.3).flatten(0, 1)
    assert out.dtype == torch.bfloat16
    # A step of bfloat16 is 2**-8 of the largest value; queries, keys, log(size) and the result are each rounded.
    assert (out - exact).abs().max() <= 4 * 2**-8 * exact.abs().max()


def test_without_a_ragged_batch_it_is_native_sdpa():
    module = torch.nn.Module()
    query, key, value = torch.randn(3, 2, HEADS, 5, WIDTH)
    mask = torch.rand(2, 1, 5, 5) < 0.8
    native, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.4)
    for stream in (None, Stream()):
        token = current.set(stream)
        try:
            out, weights = door.attention(module, query, key, value, mask, scaling=0.4)
        finally:
            current.reset(token)
        assert torch.equal(out, native) and weights is None


class Bidirectional(torch.nn.Module):
    is_causal = False


def test_with_a_ragged_batch_it_scales_as_usual_and_shows_queries_and_keys():
    tokens, qkv = batch((3, 2), False, 0)
    seen = []

    class Listening(Stream):
        def saw(self, attended):
            seen.append(attended)

    module = Bidirectional()
    token = current.set(Listening(tokens))
    try:
        out, _ = door.attention(module, *qkv, None)
    finally:
        current.reset(token)
    torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, WIDTH**-0.5), atol=1e-6, rtol=1e-6)
    assert seen[0].query is qkv[0] and seen[0].key is qkv[1] and seen[0].tokens is tokens
    assert seen[0].scaling == WIDTH**-0.5


@pytest.mark.parametrize("padding", [None, torch.tensor([[True, True, False]])])
def test_the_mask_function_is_native_and_inside_says_what_was_asked(padding):
    native = sdpa_mask(1, 3, 3, attention_mask=padding, allow_is_causal_skip=False)
    outside = door.mask(1, 3, 3, attention_mask=padding, allow_is_causal_skip=False)
    token = current.set(Stream())
    try:
        inside = door.mask(1, 3, 3, attention_mask=padding, allow_is_causal_skip=False)
        assert door.mask(1, 3, 3) is None, "sdpa needs no mask for plain causality"
    finally:
        current.reset(token)
    assert torch.equal(outside, native) and torch.equal(inside, native)
    assert door.asked(outside) is None
    assert door.asked(inside) == door.Asked(causal_mask_function, padding)
