"""rltr's attention and mask functions: transformers' own outside of a reduced pass, ragged attention inside."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    causal_mask_function,
    sdpa_mask,
)

from rltr.runtime import attention as interface
from rltr.runtime.attention import Stream, current
from tests.attention.conftest import HEADS, WIDTH, batch, plain


def test_attention_without_a_ragged_batch_is_native_sdpa():
    module = torch.nn.Module()
    query, key, value = torch.randn(3, 2, HEADS, 5, WIDTH)
    mask = torch.rand(2, 1, 5, 5) < 0.8
    native, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.4)
    for stream in (None, Stream()):
        token = current.set(stream)
        try:
            out, weights = interface.attention(module, query, key, value, mask, scaling=0.4)
        finally:
            current.reset(token)
        assert torch.equal(out, native) and weights is None


class Bidirectional(torch.nn.Module):
    is_causal = False


def test_ragged_attention_uses_the_default_scaling_and_reports_queries_and_keys():
    tokens, qkv = batch((3, 2), False, 0)
    seen = []

    class Listening(Stream):
        def on_attention(self, attended):
            seen.append(attended)

    module = Bidirectional()
    token = current.set(Listening(tokens))
    try:
        out, _ = interface.attention(module, *qkv, None)
    finally:
        current.reset(token)
    torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, WIDTH**-0.5), atol=1e-6, rtol=1e-6)
    assert seen[0].query is qkv[0] and seen[0].key is qkv[1] and seen[0].tokens is tokens
    assert seen[0].scaling == WIDTH**-0.5


@pytest.mark.parametrize("padding", [None, torch.tensor([[True, True, False]])])
def test_masks_are_native_and_keep_their_request_in_a_reduced_pass(padding):
    native = sdpa_mask(1, 3, 3, attention_mask=padding, allow_is_causal_skip=False)
    outside = interface.mask(1, 3, 3, attention_mask=padding, allow_is_causal_skip=False)
    token = current.set(Stream())
    try:
        inside = interface.mask(1, 3, 3, attention_mask=padding, allow_is_causal_skip=False)
        assert interface.mask(1, 3, 3) is None, "sdpa needs no mask for plain causality"
    finally:
        current.reset(token)
    assert torch.equal(outside, native) and torch.equal(inside, native)
    assert interface.request_of(outside) is None
    assert interface.request_of(inside) == interface.MaskRequest(causal_mask_function, padding)
