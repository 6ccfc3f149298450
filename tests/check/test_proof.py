"""``check_backbone`` proves models that are exact with fewer tokens, in every precision."""

import copy

import pytest
import torch
import transformers as hf
from rich.console import Console

import rltr
from rltr.check.proof import prove
from rltr.check.rounding import in_single_precision
from rltr.check.sample import random_inputs
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from tests.check.conftest import TINY_TEXT
from tests.zoo import ZOO, batch

KINDS = (
    "vit", "dinov3_vit", "siglip2_vision_model", "wav2vec2", "bert", "albert", "modernbert", "esm", "gpt2", "llama",
    "gemma2", "qwen2", "gpt_oss", "mixtral",
)  # fmt: skip
"""A family for each kind of attention, position encoding and padding, for tests that need not run with all."""
GENERATED = [
    name for name, entry in ZOO.items() if entry.inputs not in ("pairs", "long waves", "frames", "codec waves")
]


def generated_inputs(name, backbone):
    inputs = random_inputs(backbone, rows=3)
    if ZOO[name].inputs == "captions":
        inputs["input_ids"][:, -1] = 2  # the end-of-text token
    return inputs


@pytest.mark.parametrize("name", GENERATED)
def test_every_family_is_proven_on_random_inputs(name):
    backbone = Backbone(ZOO[name].build())
    assert prove(backbone, generated_inputs(name, backbone), (1, 3)).holds


@pytest.mark.parametrize("name", [name for name in ZOO if name not in GENERATED])
def test_every_other_family_is_proven_on_given_inputs(name):
    entry = ZOO[name]
    assert prove(Backbone(entry.build()), batch(entry, entry.paddings[-1]), (1, 3)).holds


PRECISE = [(name, torch.bfloat16) for name in KINDS]
# Torch lacks grouped matrix products in double precision, and Gemma 2 itself gives NaN for padding in it.
PRECISE += [(name, torch.float64) for name in KINDS if not ZOO[name].experts and name != "gemma2"]


@pytest.mark.parametrize(("name", "dtype"), PRECISE, ids=str)
def test_every_kind_of_family_is_proven_in_every_precision(name, dtype):
    """Tolerances follow the precision of the model."""
    backbone = Backbone(ZOO[name].build().to(dtype))
    proof = prove(backbone, generated_inputs(name, backbone), (1, 3))
    assert proof.holds
    if dtype == torch.float64 and backbone.root._supports_sdpa:
        assert proof.tolerance < 1e-11


def test_the_report_shows_the_results(tiny_bert, capsys):
    report = rltr.check_backbone(tiny_bert)
    assert report.holds and report.known and not report.causal
    assert report.layers == "4 × BertLayer" and report.decision_layers == (0, 1, 2, 3)
    assert report.protected == 1 and report.tokens[0] > report.tokens[1]
    Console(width=100).print(report.table())
    shown = capsys.readouterr().out
    assert "exact" in shown and "BertLayer" in shown and "of native" in shown and "tokens merged" in shown


def test_given_inputs_are_used(tiny_vit, image_inputs):
    assert rltr.check_backbone(tiny_vit, image_inputs).tokens == (17, 17)


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_are_refused(tiny_vit, image_inputs, rows):
    with pytest.raises(RltrError, match="give at least two rows"):
        rltr.check_backbone(tiny_vit, {name: value[:rows] for name, value in image_inputs.items()})


def test_a_model_in_half_precision_is_not_changed(tiny_bert):
    """It is compared with a copy in single precision."""
    model = copy.deepcopy(tiny_bert).bfloat16()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with Backbone(model).attached() as backbone:
        exact = in_single_precision(backbone)
        assert exact is not backbone and exact.dtype == torch.float32
        assert exact.config._attn_implementation == "sdpa", "the copy is native"
    assert in_single_precision(exact) is exact
    assert rltr.check_backbone(model).holds
    assert model.dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_described_family_can_be_proven():
    """An unknown model type is refused unless its family is described."""
    model = hf.AlignTextModel(hf.AlignTextConfig(**TINY_TEXT)).eval()
    with pytest.raises(RltrError, match="has not been proven exact"):
        rltr.check_backbone(model)
    report = rltr.check_backbone(model, family=rltr.Family())
    assert report.holds and not report.known


def test_a_wrongly_described_family_is_refused():
    """Without ``patches_only``, the rotary factors do not fit the tokens, and the pass fails with an error."""
    model = ZOO["dinov3_vit"].build()
    with pytest.raises((RltrError, RuntimeError)):
        rltr.check_backbone(model, family=rltr.Family(leading=3))
