"""A runtime that is not exact fails the proof."""

import copy
import math
from dataclasses import replace

import pytest
import torch

import rltr
from rltr.check.parity import parity
from rltr.check.proof import Proof, prove
from rltr.check.sample import random_inputs
from rltr.runtime import kernels
from rltr.runtime.backbone import Backbone

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def rows_see_each_other(query, key, value, plan, scaling, *pattern):
    tokens = plan.tokens
    plan = kernels.Plan(replace(tokens, row=torch.zeros_like(tokens.row), counts=(tokens.total,)))
    return kernels.ragged_attention(query, key, value, plan, scaling, *pattern)


def sizes_are_lost(query, key, value, plan, scaling, *pattern):
    """Attention without the sizes of merged tokens."""
    plan = kernels.Plan(replace(plan.tokens, size=None), plan.backend)
    return kernels.ragged_attention(query, key, value, plan, scaling, *pattern)


def logits_are_scaled(query, key, value, plan, scaling, *pattern):
    return kernels.ragged_attention(query, key, value, plan, 1.5 * scaling, *pattern)


@PRECISIONS
def test_lost_sizes_are_detected(tiny_bert, monkeypatch, dtype):
    """Only the error of merging exceeds the tolerance, because only merged tokens have sizes."""
    backbone = Backbone(copy.deepcopy(tiny_bert).to(dtype))
    inputs = random_inputs(backbone, rows=4)
    monkeypatch.setattr("rltr.runtime.attention.ragged_attention", sizes_are_lost)
    proof = prove(backbone, inputs, (1, 3))
    assert not proof.holds
    assert max(proof.kept, proof.dropped, proof.alone) <= proof.tolerance < proof.merged


@PRECISIONS
@pytest.mark.parametrize("wrong", [rows_see_each_other, logits_are_scaled])
def test_a_wrong_runtime_is_detected(tiny_bert, text_inputs, monkeypatch, wrong, dtype):
    """Proof and parity fail for a wrong runtime, in half precision, too."""
    model = copy.deepcopy(tiny_bert).to(dtype)
    assert rltr.check_backbone(model).holds
    backbone = Backbone(model)
    assert parity(backbone, text_inputs, [1]).holds
    monkeypatch.setattr("rltr.runtime.attention.ragged_attention", wrong)
    assert not rltr.check_backbone(model).holds
    assert not parity(backbone, text_inputs, [1]).holds


def test_an_error_of_one_percent_is_detected_in_single_precision(tiny_bert, monkeypatch):
    def wrong(query, key, value, plan, scaling, *pattern):
        return kernels.ragged_attention(query, key, value, plan, 1.01 * scaling, *pattern)

    monkeypatch.setattr("rltr.runtime.attention.ragged_attention", wrong)
    assert not rltr.check_backbone(tiny_bert).holds


def test_a_proof_does_not_hold_if_the_native_model_overflows():
    proof = Proof(kept=math.inf, dropped=0.0, merged=0.0, alone=0.0, tolerance=math.inf, restored=True)
    assert not proof.holds
