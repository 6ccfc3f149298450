"""Ragged attention equals plain softmax attention of each row, for every pattern, size, backend and precision."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltr.runtime import kernels
from rltr.runtime.kernels import FULL_ATTENTION
from tests.attention.conftest import COUNTS, HEADS, ON_CPU, PATTERNS, SCALES, WIDTH, attend, batch, plain
from tests.attention.gpu_kernels import as_on_a_gpu


@pytest.mark.parametrize("pattern", PATTERNS)
@given(counts=COUNTS, sized=st.booleans(), shared=st.booleans(), gaps=st.booleans(), seed=st.integers(0, 1000))
def test_every_pattern_equals_plain_softmax(pattern, counts, sized, shared, gaps, seed):
    """Causality, windows in original positions, softcap and sinks, with and without keys that queries share."""
    tokens, (query, key, value) = batch(counts, sized, seed)
    if gaps:
        tokens = replace(tokens, position=3 * tokens.position + 1, grid=3 * tokens.grid + 1)
    if shared:
        key, value = key[:, :1], value[:, :1]
    pattern = PATTERNS[pattern]
    expected = plain(query, key, value, tokens, 0.4, pattern)
    for backend in ON_CPU:
        out = attend(query, key, value, tokens, 0.4, pattern, backend)
        assert out.shape == query.transpose(1, 2).shape
        torch.testing.assert_close(out.flatten(0, 1), expected, atol=1e-6, rtol=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.plan, "CALL_COST", 12 * HEADS * WIDTH)  # several groups even of rows as short as these
        patch.setattr(kernels.ragged, "LONGEST_MASKED", 0)  # sizes of causal rows in extra channels, as in long ones
        out = attend(query, key, value, tokens, 0.4, pattern, "sdpa-grouped")
    torch.testing.assert_close(out.flatten(0, 1), expected, atol=1e-6, rtol=1e-6)
    for there in ([], ["varlen"], ["flash"], ["varlen", "flash"]):
        with as_on_a_gpu(*there):
            out = attend(query, key, value, tokens, 0.4, pattern)
        assert out.shape == query.transpose(1, 2).shape
        torch.testing.assert_close(out.flatten(0, 1), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_double_precision_stays_double(pattern, sized):
    tokens, qkv = batch((5, 2, 3), sized, 0, torch.float64)
    expected = plain(*qkv, tokens, 0.4, PATTERNS[pattern])
    for backend in ON_CPU:
        out = attend(*qkv, tokens, 0.4, PATTERNS[pattern], backend)
        torch.testing.assert_close(out.flatten(0, 1), expected, atol=1e-14, rtol=1e-13)


@given(COUNTS, st.booleans(), SCALES, st.integers(0, 1000))
def test_ragged_attention_equals_plain_softmax(counts, sized, scaling, seed):
    tokens, qkv = batch(counts, sized, seed)
    for backend in ON_CPU:
        out = attend(*qkv, tokens, scaling, FULL_ATTENTION, backend)
        torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, scaling), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("counts", [(4, 4, 4), (5, 2, 1)])
def test_a_token_of_size_n_counts_like_n_equal_tokens(counts):
    tokens, (query, key, value) = batch(counts, True, 0)
    tokens = replace(tokens, size=torch.randint(1, 4, (tokens.total,)).float())
    out = attend(query, key, value, tokens, 0.3).flatten(0, 1)
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
    torch.testing.assert_close(attend(*qkv, ones, 0.3), attend(*qkv, tokens, 0.3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("counts", [(4, 4), (5, 2), (2, 5), (5, 4)])
def test_rows_do_not_attend_to_other_rows(counts, backend, pattern):
    tokens, (query, key, value) = batch(counts, True, 0)
    before = attend(query, key, value, tokens, 0.3, PATTERNS[pattern], backend).flatten(0, 1)
    other = (tokens.row == 1).view(query.shape[0], 1, -1, 1)
    for strange in (9.0, torch.nan, torch.inf):
        changed = (tensor.where(~other, strange) for tensor in (query, key, value))
        after = attend(*changed, tokens, 0.3, PATTERNS[pattern], backend).flatten(0, 1)
        assert torch.equal(before[tokens.row == 0], after[tokens.row == 0])


@pytest.mark.parametrize("backend", [*ON_CPU, "varlen", "flash"])
@pytest.mark.parametrize("counts", [(6, 6), (7, 3)])
def test_bfloat16_differs_by_rounding_only(counts, backend):
    tokens, qkv = batch(counts, True, 0, torch.bfloat16)
    exact = plain(*qkv, tokens, 0.3)
    with nullcontext() if backend in ON_CPU else as_on_a_gpu("varlen", "flash"):
        out = attend(*qkv, tokens, 0.3, FULL_ATTENTION, backend).flatten(0, 1)
    assert out.dtype == torch.bfloat16
    # A step of bfloat16 is 2**-8 of the largest value; queries, keys, log(size) and the result are each rounded.
    assert (out - exact).abs().max() <= 4 * 2**-8 * exact.abs().max()
