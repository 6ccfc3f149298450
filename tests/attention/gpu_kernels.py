"""Stand-ins for attention kernels that need a GPU: same signatures, same numbers from plain operations."""

from contextlib import contextmanager

import pytest
import torch
from transformers.masking_utils import (
    causal_mask_function,
)

from rltr.runtime import kernels
from rltr.runtime import tokens as ragged
from rltr.runtime.kernels import packed
from rltr.runtime.pattern import Pattern
from tests.attention.conftest import plain


def check_documented_arguments(query, key, value, starts_q, starts_k, most_q, most_k):
    assert query.ndim == key.ndim == value.ndim == 3
    assert query.shape[-1] == key.shape[-1] == value.shape[-1] and query.shape[-1] % 8 == 0
    assert starts_q.dtype == starts_k.dtype == torch.int32 and starts_q.ndim == 1
    assert torch.equal(starts_q, starts_k) and starts_q[0] == 0 and starts_q[-1] == len(query) == len(key)
    assert most_q == most_k == int(starts_q.diff().max())


def packed_softmax(query, key, value, starts, scale, causal, softcap=0.0):
    """Softmax attention of rows given by cumulative sequence lengths; positions count within the packed row."""
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
    check_documented_arguments(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)
    assert window_size in ((-1, -1), (-1, 0)), "windows would count packed positions"
    assert enable_gqa or query.shape[1] == key.shape[1]
    return packed_softmax(query, key, value, cu_seq_q, scale, window_size == (-1, 0))


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
    block_table=None,
):  # fmt: skip
    check_documented_arguments(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    assert window_size == (-1, -1) and dropout_p == 0, "windows would count packed positions"
    return packed_softmax(q, k, v, cu_seqlens_q, softmax_scale, causal, softcap)


@contextmanager
def as_on_a_gpu(*kernels_there):
    """Choose kernels as on a GPU that has the given ones; yields the names of those that are called."""
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
