"""Choice of the backend: kernels for packed rows are used where they are exact, and refused where they cannot run."""

import inspect

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn as real_varlen_attn

from rltr.errors import RltrError
from rltr.runtime import kernels
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice
from rltr.runtime.kernels import packed
from rltr.selectors import Selector
from rltr.selectors.reduced_model import ReducedModel
from tests.attention.conftest import HEADS, ON_CPU, PATTERNS, attend, batch, plain
from tests.attention.gpu_kernels import (
    as_on_a_gpu,
    varlen_attn,
)


def test_the_stand_ins_have_the_signatures_of_the_kernels():
    assert packed.varlen_kernel() is real_varlen_attn, "this torch has it"
    assert inspect.signature(varlen_attn).parameters.keys() == inspect.signature(real_varlen_attn).parameters.keys()
    for name, parameter in inspect.signature(real_varlen_attn).parameters.items():
        ours = inspect.signature(varlen_attn).parameters[name]
        assert (ours.kind, ours.default) == (parameter.kind, parameter.default), name


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
        ("capped", True, ["varlen", "flash"], "auto", None),  # the softcap would apply to sizes, too
        ("window", False, ["varlen", "flash"], "auto", None),  # windows would count packed positions
        ("window", False, ["varlen", "flash"], "flash", None),
        ("sinks", False, ["varlen", "flash"], "auto", None),
    ],
)
def test_packed_kernels_are_called_only_where_they_are_exact(name, sized, there, backend, kernel):
    tokens, qkv = batch((5, 2, 3), sized, 0)
    with as_on_a_gpu(*there) as called:
        attend(*qkv, tokens, 0.3, PATTERNS[name], backend)
    assert called == ([] if kernel is None else [kernel])


def test_rows_of_equal_length_need_no_packed_kernel():
    tokens, qkv = batch((4, 4), True, 0)
    with as_on_a_gpu("varlen", "flash") as called:
        out = attend(*qkv, tokens, 0.3)
    torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, 0.3), atol=1e-6, rtol=1e-6)
    assert called == []


@pytest.mark.parametrize("width", [12, 256])
def test_head_sizes_without_a_kernel_use_padded_rows(width):
    tokens, _ = batch((5, 2, 3), True, 0)
    qkv = torch.randn(3, 1, HEADS, tokens.total, width)
    with as_on_a_gpu("varlen", "flash") as called:
        out = attend(*qkv, tokens, 0.1)
    torch.testing.assert_close(out.flatten(0, 1), plain(*qkv, tokens, 0.1), atol=1e-6, rtol=1e-5)
    assert called == []


@pytest.mark.parametrize("backend", ["varlen", "flash"])
def test_an_unavailable_kernel_is_refused(backend, tiny_vit, image_inputs):
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
    """Keeps the first ``2 + 2 * row`` tokens of each row."""

    def __call__(self, decision):
        return Choice(decision.tokens.slot < 2 + 2 * decision.tokens.row)


@pytest.mark.parametrize("backend", [*ON_CPU[1:], "varlen", "flash"])
def test_logits_are_the_same_with_every_backend(backend, tiny_vit, image_inputs):
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
