"""``check_backbone`` accepts models that are exact with fewer tokens, and no others."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import transformers as hf
from rich.console import Console

import rltr
from rltr.check.parity import parity
from rltr.check.proof import Proof, prove
from rltr.check.rounding import in_single_precision
from rltr.check.sample import random_inputs
from rltr.errors import RltrError
from rltr.runtime import kernels
from rltr.runtime.backbone import Backbone
from rltr.selectors import baseline
from tests.conftest import build
from tests.zoo import ZOO, batch

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


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


def test_the_report_says_what_was_found(tiny_bert, capsys):
    report = rltr.check_backbone(tiny_bert)
    assert report.holds and report.known and not report.causal
    assert report.layers == "4 × BertLayer" and report.decision_layers == (0, 1, 2, 3)
    assert report.protected == 1 and report.tokens[0] > report.tokens[1]
    Console(width=100).print(report.table())
    shown = capsys.readouterr().out
    assert "exact" in shown and "BertLayer" in shown and "of native" in shown and "tokens merged" in shown


def test_given_inputs_are_used(tiny_vit, image_inputs):
    assert rltr.check_backbone(tiny_vit, image_inputs).tokens == (17, 17)


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


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_are_refused(tiny_vit, image_inputs, rows):
    with pytest.raises(RltrError, match="give at least two rows"):
        rltr.check_backbone(tiny_vit, {name: value[:rows] for name, value in image_inputs.items()})


@PRECISIONS
def test_sizes_that_get_lost_are_found_out(tiny_bert, monkeypatch, dtype):
    """Only the difference in merging exceeds the tolerance: only merged tokens have sizes."""
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


def test_a_proof_does_not_hold_if_the_native_model_overflows():
    proof = Proof(kept=math.inf, dropped=0.0, merged=0.0, alone=0.0, tolerance=math.inf, restored=True)
    assert not proof.holds


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


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_either_tower_of_a_clip_can_be_reduced(tower):
    small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    text = {**small, "vocab_size": 50, "max_position_embeddings": 64, "eos_token_id": 2, "bos_token_id": 1}
    config = hf.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 16, "patch_size": 4}, projection_dim=16
    )
    torch.manual_seed(0)
    model = hf.CLIPModel(config).eval()
    with pytest.raises(RltrError, match="vision_model"):
        Backbone(model)
    inputs = batch(ZOO["clip_vision_model"]) | batch(ZOO["clip_text_model"], "right")
    backbone = Backbone(model, tower=tower)
    assert prove(backbone, inputs, (1, 3)).holds
    report = rltr.check_backbone(model, tower=tower)  # without inputs, of which the whole takes two kinds
    assert report.proof.holds and report.model_type == backbone.config.model_type
    before = model(**inputs).logits_per_image
    with backbone.attached():
        output, trace = rltr.ReducedModel(backbone, baseline("norm", 0.5), [1])(inputs)
    assert len(trace.stages[-1].counts) == 4 and trace.stages[-1].total < trace.stages[0].total
    assert output["logits_per_image"].shape == before.shape and not torch.equal(output["logits_per_image"], before)
    assert torch.equal(model(**inputs).logits_per_image, before)


def test_an_encoder_beside_a_decoder_is_checked_alone():
    config = hf.WhisperConfig(
        d_model=32, encoder_layers=4, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=64, vocab_size=60, num_mel_bins=8, max_source_positions=20,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    report = rltr.check_backbone(build(hf.WhisperForConditionalGeneration, config))
    assert report.proof.holds and report.name == "WhisperForConditionalGeneration"


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 16,
    "patch_size": 4, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip
PRETRAINING = {
    "vit": lambda: build(hf.ViTMAEForPreTraining, hf.ViTMAEConfig(**SMALL, mask_ratio=0.5)),
    "videomae": lambda: build(hf.VideoMAEForPreTraining, hf.VideoMAEConfig(**SMALL, num_frames=4, tubelet_size=2)),
}


@pytest.mark.parametrize("tower", PRETRAINING)
def test_of_two_stacks_of_layers_the_encoder_can_be_reduced(tower):
    model = PRETRAINING[tower]()
    with pytest.raises(RltrError, match=f"2 stacks of layers.*decoder_layers.*tower=: {tower}$"):
        Backbone(model)
    backbone = Backbone(model, tower=tower)
    assert backbone.depth == 4
    if tower == "vit":
        inputs = random_inputs(backbone, rows=3)
    else:
        with pytest.raises(RltrError, match="takes bool_masked_pos, which rltr cannot generate"):
            random_inputs(backbone, rows=3)
        hidden = torch.arange(32).expand(3, -1) % 2 == 1
        inputs = {"pixel_values": torch.randn(3, 4, 3, 16, 16), "bool_masked_pos": hidden}
    assert prove(backbone, inputs, (1, 3)).holds
    before = model(**inputs).logits
    with backbone.attached(), torch.no_grad():
        output, trace = rltr.ReducedModel(backbone, baseline("norm", 0.5), [1])(inputs)
    assert trace.stages[-1].total < trace.stages[0].total
    assert output["logits"].shape == before.shape and not torch.equal(output["logits"], before)
    assert torch.equal(model(**inputs).logits, before)


def test_inputs_that_cannot_be_generated_are_refused(tiny_vit, monkeypatch):
    backbone = Backbone(tiny_vit)
    monkeypatch.setattr(type(tiny_vit), "main_input_name", "tactile_values")
    with pytest.raises(RltrError, match="pass inputs="):
        random_inputs(backbone, 2)


# ---- a verdict or a reason, never a crash

TINY_IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
TINY_TEXT = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 60,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
PIXELS = {"pixel_values": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
WORDS = {"input_ids": torch.randint(3, 50, (3, 12), generator=torch.Generator().manual_seed(1))}
UNUSUAL = {
    "a mask passed by name": (lambda: hf.Blip2VisionModel(hf.Blip2VisionConfig(**TINY_IMAGE)), PIXELS, None),
    "layers that use the whole input": (
        lambda: hf.XmodModel(hf.XmodConfig(**TINY_TEXT, default_language="en_XX")), WORDS, "with fewer tokens ended in",
    ),
    "the native model fails": (
        lambda: hf.XmodModel(hf.XmodConfig(**TINY_TEXT)), WORDS, "native forward pass.*language unknown.*pass inputs=",
    ),
    "layers without hidden_states": (
        lambda: hf.CTRLModel(hf.CTRLConfig(n_embd=32, n_layer=4, n_head=4, dff=64, vocab_size=60, n_positions=64)),
        WORDS, "takes x, .*no hidden_states",
    ),
    "layers on a grid": (
        lambda: hf.SamVisionModel(
            hf.SamVisionConfig(**TINY_IMAGE, output_channels=8, mlp_dim=64, window_size=2, global_attn_indexes=[1, 3])
        ),
        PIXELS, "work on a 2-D grid",
    ),
    "attention of its own": (
        lambda: hf.BlipVisionModel(hf.BlipVisionConfig(**TINY_IMAGE)), None, "attention in its own code",
    ),
    "layers without attention": (
        lambda: hf.MiniMaxModel(hf.MiniMaxConfig(**TINY_TEXT, num_key_value_heads=2, head_dim=8, num_local_experts=2)),
        WORDS, "ran without transformers' attention interface",
    ),
    "widths that differ": (
        lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2)),
        PIXELS, "no single hidden_size",
    ),
    "nothing declared": (
        lambda: hf.GPTNeoXJapaneseModel(hf.GPTNeoXJapaneseConfig(**TINY_TEXT)), WORDS, "does not declare its layers",
    ),
    "inputs that cannot be generated": (
        lambda: hf.BrosModel(hf.BrosConfig(**TINY_TEXT)), None, "attention in its own code",
    ),
    "more inputs are needed": (
        lambda: hf.LayoutLMv3Model(hf.LayoutLMv3Config(**TINY_TEXT)), None, "pass inputs=|its own code",
    ),
    "a random model": (
        lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**TINY_IMAGE)), PIXELS, "different answers to the same inputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNUSUAL)
def test_an_unusual_model_gets_a_verdict_or_a_reason(what):
    make, inputs, reason = UNUSUAL[what]
    model = build_of(make)
    family = rltr.Family(trailing=1, causal=True, cached=True) if "MiniMax" in type(model).__name__ else rltr.Family()
    if reason is None:
        assert rltr.check_backbone(model, inputs, family=family).holds
        return
    with pytest.raises(RltrError, match=reason) as error:
        rltr.check_backbone(model, inputs, family=family)
    assert type(model).__name__ in str(error.value) or "layer" in str(error.value)


def build_of(make):
    torch.manual_seed(0)
    return make().eval()


def test_inputs_for_another_part_are_refused(tiny_bert):
    with pytest.raises(RltrError, match="native forward pass.*pass inputs="):
        rltr.check_backbone(tiny_bert, {"pixel_values": torch.randn(3, 3, 16, 16)})
