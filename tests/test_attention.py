"""Ragged attention equals plain softmax attention of each row; without a ragged batch it is transformers' own sdpa."""

import inspect
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.varlen import varlen_attn as real_varlen_attn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    causal_mask_function,
    sdpa_mask,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from rltr.errors import RltrError
from rltr.runtime import attention as door
from rltr.runtime import kernels
from rltr.runtime import tokens as ragged
from rltr.runtime.attention import Stream, current
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice
from rltr.runtime.kernels import FULL_ATTENTION, Plan, packed
from rltr.runtime.kernels.groups import groups_of_similar_length
from rltr.runtime.pattern import Pattern
from rltr.selectors import Selector
from rltr.selectors.reduced_model import ReducedModel

HEADS, WIDTH = 2, 8
COUNTS = st.lists(st.integers(1, 6), min_size=1, max_size=4)
SCALES = st.sampled_from([WIDTH**-0.5, 1.0, 0.1])


def batch(counts, sized, seed, dtype=torch.float32):
    """Tokens, and packed queries, keys and values in the shape in which the layers see them."""
    tokens = ragged.pack(torch.arange(max(counts) + 1) < torch.tensor(counts)[:, None])
    generator = torch.Generator().manual_seed(seed)
    if sized:
        size = torch.randint(1, 40, (tokens.total,), generator=generator).to(ragged.precise(dtype))
        tokens = replace(tokens, size=size)
    packed = torch.randn(3, tokens.total, HEADS, WIDTH, generator=generator).to(dtype)
    shape = (1, tokens.total) if tokens.uniform is None else (len(counts), tokens.uniform)
    return tokens, [tensor.view(*shape, HEADS, WIDTH).transpose(1, 2) for tensor in packed]


def plain(query, key, value, tokens, scaling, pattern=FULL_ATTENTION):
    """Softmax attention with log(size) as a bias, a row and a pair of tokens at a time, in float64; packed."""
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


# ---- stand-ins for kernels that need a GPU: their signatures, and the same numbers from plain operations


def boundaries_are_as_documented(query, key, value, starts_q, starts_k, most_q, most_k):
    assert query.ndim == key.ndim == value.ndim == 3
    assert query.shape[-1] == key.shape[-1] == value.shape[-1] and query.shape[-1] % 8 == 0
    assert starts_q.dtype == starts_k.dtype == torch.int32 and starts_q.ndim == 1
    assert torch.equal(starts_q, starts_k) and starts_q[0] == 0 and starts_q[-1] == len(query) == len(key)
    assert most_q == most_k == int(starts_q.diff().max())


def packed_softmax(query, key, value, starts, scale, causal, softcap=0.0):
    """Rows as the boundaries cut them, by position in the packed row: these kernels know no other."""
    counts = starts.diff()
    row = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    position = torch.arange(len(query), device=counts.device) - starts[:-1].long()[row]
    tokens = ragged.Tokens(row, position, tuple(counts.tolist()), int(counts.max()))
    pattern = Pattern(causal_mask_function if causal else None, softcap or None)
    shaped = (tensor[None].transpose(1, 2) for tensor in (query, key, value))
    return plain(*shaped, tokens, scale, pattern).to(query.dtype)


def varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
):  # fmt: skip
    boundaries_are_as_documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)
    assert window_size in ((-1, -1), (-1, 0)), "windows would count packed positions"
    assert enable_gqa or query.shape[1] == key.shape[1]
    return packed_softmax(query, key, value, cu_seq_q, scale, window_size == (-1, 0))


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
    block_table=None,
):  # fmt: skip
    boundaries_are_as_documented(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    assert window_size == (-1, -1) and dropout_p == 0, "windows would count packed positions"
    return packed_softmax(q, k, v, cu_seqlens_q, softmax_scale, causal, softcap)


@contextmanager
def as_on_a_gpu(*kernels_there):
    """Choose as on a GPU that has these kernels; yields the names of those that are called."""
    called = []

    def there(name, stand_in):
        def kernel(*args, **kwargs):
            called.append(name)
            return stand_in(*args, **kwargs)

        return lambda: kernel if name in kernels_there else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "varlen_kernel", there("varlen", varlen_attn))
        patch.setattr(packed, "flash_kernel", there("flash", flash_attn_varlen_func))
        patch.setattr(packed, "refusal", lambda device, dtype: None)
        patch.setattr(kernels.ragged, "_fused_with_bias", lambda device: False)
        patch.setattr(kernels.backends, "_on_cpu", lambda device: False)
        yield called


def attend(query, key, value, tokens, scaling, pattern=FULL_ATTENTION, backend="auto"):
    return kernels.ragged_attention(query, key, value, Plan(tokens, backend), scaling, pattern)


ON_CPU = ("auto", "sdpa-per-row", "sdpa-grouped", "sdpa-padded")


def test_the_stand_ins_have_the_signatures_of_the_kernels():
    assert packed.varlen_kernel() is real_varlen_attn, "this torch has it"
    assert inspect.signature(varlen_attn).parameters.keys() == inspect.signature(real_varlen_attn).parameters.keys()
    for name, parameter in inspect.signature(real_varlen_attn).parameters.items():
        ours = inspect.signature(varlen_attn).parameters[name]
        assert (ours.kind, ours.default) == (parameter.kind, parameter.default), name


@pytest.mark.parametrize("pattern", PATTERNS)
@given(counts=COUNTS, sized=st.booleans(), shared=st.booleans(), gaps=st.booleans(), seed=st.integers(0, 1000))
def test_every_pattern_equals_plain_softmax(pattern, counts, sized, shared, gaps, seed):
    """Causality, windows in original positions, capped logits and sinks, with keys that queries share or not."""
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


@pytest.mark.parametrize(
    ("name", "sized", "there", "backend", "kernel"),
    [
        ("full", True, ["varlen", "flash"], "auto", "varlen"),
        ("causal", True, ["varlen", "flash"], "auto", "varlen"),
        ("causal", False, ["flash"], "auto", "flash"),
        ("full", True, ["varlen", "flash"], "flash", "flash"),
        ("full", True, ["varlen", "flash"], "sdpa-padded", None),
        ("full", True, ["varlen", "flash"], "sdpa-per-row", None),
        ("full", True, [], "auto", None),
        ("capped", False, ["varlen", "flash"], "auto", "flash"),
        ("capped", True, ["varlen", "flash"], "auto", None),  # it would cap the sizes, too
        ("window", False, ["varlen", "flash"], "auto", None),  # windows would count packed positions
        ("window", False, ["varlen", "flash"], "flash", None),
        ("sinks", False, ["varlen", "flash"], "auto", None),
    ],
)
def test_kernels_for_packed_rows_run_where_they_are_exact(name, sized, there, backend, kernel):
    tokens, qkv = batch((5, 2, 3), sized, 0)
    with as_on_a_gpu(*there) as called:
        attend(*qkv, tokens, 0.3, PATTERNS[name], backend)
    assert called == ([] if kernel is None else [kernel])


def test_equal_rows_need_no_kernel_for_packed_ones():
    tokens, qkv = batch((4, 4), True, 0)
    with as_on_a_gpu("varlen", "flash") as called:
        out = attend(*qkv, tokens, 0.3)
    torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, 0.3), atol=1e-6, rtol=1e-6)
    assert called == []


@pytest.mark.parametrize("width", [12, 256])
def test_head_sizes_that_kernels_do_not_take_are_padded_rows(width):
    tokens, _ = batch((5, 2, 3), True, 0)
    qkv = torch.randn(3, 1, HEADS, tokens.total, width)
    with as_on_a_gpu("varlen", "flash") as called:
        out = attend(*qkv, tokens, 0.1)
    torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, 0.1), atol=1e-6, rtol=1e-5)
    assert called == []


@pytest.mark.parametrize("backend", ["varlen", "flash"])
def test_a_kernel_that_cannot_run_here_is_refused(backend, tiny_vit, image_inputs):
    with pytest.raises(RltrError, match="needs a CUDA device.*choose one of auto, sdpa"):
        Backbone(tiny_vit, attention=backend)
    with as_on_a_gpu(), pytest.raises(RltrError, match="2.13 has it|install flash-attn"):
        Backbone(tiny_vit, attention=backend)
    with as_on_a_gpu(backend):
        keep = ReducedModel(Backbone(tiny_vit, attention=backend), FirstTokens(), [1])
    with keep.backbone.attached(), pytest.raises(RltrError, match="needs a CUDA device"):
        keep(image_inputs)  # as if the model had been moved since


def test_an_unknown_backend_is_refused():
    with pytest.raises(RltrError, match="'fast' is not a backend: choose one of auto, sdpa-per-row"):
        kernels.check_backend("fast")


class FirstTokens(Selector):
    """Keeps as many of the first tokens as a row has a number."""

    def __call__(self, decision):
        return Choice(decision.tokens.slot < 2 + 2 * decision.tokens.row)


@pytest.mark.parametrize("backend", [*ON_CPU[1:], "varlen", "flash"])
def test_a_backbone_gives_the_same_with_every_backend(backend, tiny_vit, image_inputs):
    def logits(attention):
        reduce = ReducedModel(Backbone(tiny_vit, attention=attention), FirstTokens(), [1, 3])
        with reduce.backbone.attached(), torch.no_grad():
            return reduce(image_inputs)[0]["logits"]

    expected = logits("auto")
    if backend in ON_CPU:
        found, called = logits(backend), None
    else:
        with as_on_a_gpu("varlen", "flash") as called:
            found = logits(backend)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert called is None or set(called) == {backend}


def test_masks_are_made_once_for_all_layers_between_two_decisions():
    tokens, qkv = batch((5, 2, 3), True, 0)
    asked = []

    def allowed(row, head, query, key):
        asked.append(1)
        return key <= query

    plan = Plan(tokens)
    first = kernels.ragged_attention(*qkv, plan, 0.3, Pattern(allowed))
    once = len(asked)
    second = kernels.ragged_attention(*qkv, plan, 0.3, Pattern(allowed))
    assert once and len(asked) == once
    assert torch.equal(first, second)


# ---- what holds on a CPU


def uneven(total, rows, seed):
    """Counts of rows that add up to about ``total``, from short to long."""
    share = torch.rand(rows, generator=torch.Generator().manual_seed(seed)) + 0.1
    return (share / share.sum() * total).round().clamp_min(1).int().tolist()


@pytest.mark.parametrize(("rows", "calls"), [(4, 4), (64, range(2, 32))])
def test_many_small_rows_are_computed_in_few_groups_and_few_rows_as_they_lie(rows, calls):
    tokens, _ = batch(uneven(30 * rows, rows, 0), False, 0)
    groups = Plan(tokens).groups("auto", 96)
    assert len(groups.shapes) in (calls if isinstance(calls, range) else [calls])
    assert (groups.gather is None) == (rows == 4)
    assert len(Plan(tokens).groups("auto", 2000).shapes) == rows, "large rows are worth a call each"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), st.floats(0, 60), st.integers(0, 1000))
def test_groups_hold_every_token_once_and_padding_is_of_the_own_row(counts, slack, seed):
    tokens = ragged.pack(torch.arange(max(counts)) < torch.tensor(counts)[:, None])
    values = torch.randn(1, HEADS, tokens.total, WIDTH, generator=torch.Generator().manual_seed(seed))
    groups = groups_of_similar_length(tokens, slack)
    assert torch.equal(groups.collect(groups.arrange(values)), values.transpose(1, 2))
    assert groups.gather is not None and groups.place is not None
    assert torch.equal(groups.gather[groups.place], torch.arange(tokens.total))
    assert sum(rows for rows, _ in groups.shapes) == sum(count > 0 for count in counts)
    for (_, length), row, padded in zip(groups.shapes, groups.pad_with_first(tokens.row), groups.padded, strict=True):
        assert (row == row[:, :1]).all()
        own = [counts[r] for r in row[:, 0].tolist()]
        assert max(own) == length and padded == (min(own) < length)
        assert all(length**2 - count**2 <= slack for count in own)
    marked = torch.cat([part.flatten() for part in groups.pad_with(tokens.position.float(), -1.0)])
    assert torch.equal(marked[groups.place], tokens.position.float()) and (marked >= 0).sum() == tokens.total


@given(COUNTS, st.booleans(), SCALES, st.integers(0, 1000))
def test_ragged_attention_equals_plain_softmax(counts, sized, scaling, seed):
    tokens, qkv = batch(counts, sized, seed)
    for backend in ON_CPU:
        out = attend(*qkv, tokens, scaling, FULL_ATTENTION, backend)
        torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, scaling), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("counts", [(4, 4, 4), (5, 2, 1)])
def test_a_size_is_as_many_equal_tokens(counts):
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
def test_a_row_never_sees_another(counts, backend, pattern):
    tokens, (query, key, value) = batch(counts, True, 0)
    before = attend(query, key, value, tokens, 0.3, PATTERNS[pattern], backend).flatten(0, 1)
    other = (tokens.row == 1).view(query.shape[0], 1, -1, 1)
    for strange in (9.0, torch.nan, torch.inf):
        changed = (tensor.where(~other, strange) for tensor in (query, key, value))
        after = attend(*changed, tokens, 0.3, PATTERNS[pattern], backend).flatten(0, 1)
        assert torch.equal(before[tokens.row == 0], after[tokens.row == 0])


@pytest.mark.parametrize("backend", [*ON_CPU, "varlen", "flash"])
@pytest.mark.parametrize("counts", [(6, 6), (7, 3)])
def test_in_bfloat16_only_rounding_is_lost(counts, backend):
    tokens, qkv = batch(counts, True, 0, torch.bfloat16)
    exact = plain(*qkv, tokens, 0.3)
    with nullcontext() if backend in ON_CPU else as_on_a_gpu("varlen", "flash"):
        out = attend(*qkv, tokens, 0.3, FULL_ATTENTION, backend).flatten(0, 1)
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
        def on_attention(self, attended):
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
    assert door.request_of(outside) is None
    assert door.request_of(inside) == door.MaskRequest(causal_mask_function, padding)
