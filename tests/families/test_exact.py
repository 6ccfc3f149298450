"""Reduced passes of every supported family are exact, compared with a reference that removes no token."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rltr.cost import FlopsCost, LatencyCost, dense, span
from rltr.envs.episodes import row_length
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.families import FAMILIES
from rltr.selectors import KeepAll, baseline
from rltr.selectors.reduced_model import ReducedModel
from tests.families.conftest import answer, answers, real
from tests.families.reference import LAYERS, Protected, Reference, Replay, final_grid, reduced, run
from tests.zoo import ZOO, batch
from tests.zoo.inputs import END

CASES = [(name, padding) for name, entry in ZOO.items() for padding in entry.paddings]
cases = pytest.mark.parametrize(("name", "padding"), CASES)
hardest = pytest.mark.parametrize(("name", "padding"), [(name, entry.paddings[-1]) for name, entry in ZOO.items()])
"""One case for each family: with padding if possible, and at the start if possible."""


@cases
def test_keeping_everything_equals_the_native_forward(model, name, padding):
    inputs = batch(ZOO[name], padding)
    with torch.no_grad():
        native = answers(model(**inputs))
    output, trace = reduced(model, inputs, KeepAll(), layers=(0, 1, 3))
    assert answers(output).keys() == native.keys()
    for key, out in answers(output).items():
        expected, found = real(native[key], trace), real(out, trace)
        # Tolerance for float32 rounding: hidden states of models without a head are larger than logits.
        torch.testing.assert_close(found, expected, atol=2e-6 * max(1.0, float(expected.abs().max())), rtol=2e-6)
    with torch.no_grad():
        assert torch.equal(answer(model(**inputs)), answer(native)), "the model was changed"


@hardest
def test_an_attached_model_that_is_not_reduced_answers_natively(model, name, padding):
    inputs = batch(ZOO[name], padding)
    with torch.no_grad():
        native = answers(model(**inputs))
        with Backbone(model).attached():
            attached = answers(model(**inputs))
    for key, expected in native.items():
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(attached[key], expected, atol=2e-6 * scale, rtol=2e-6)


MODES = [(*case, "merge") for case in CASES] + [(name, ZOO[name].paddings[-1], "drop") for name in ZOO]


@pytest.mark.parametrize(("name", "padding", "mode"), MODES)
def test_fewer_tokens_equal_the_reference_on_the_whole_grid(model, name, padding, mode):
    """Also all outputs of the model's head, which may read every position of the grid."""
    inputs, backbone = batch(ZOO[name], padding), Backbone(model)
    fixed = Protected()
    run(model, inputs, fixed)
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(len(LAYERS), *fixed.mask.shape, generator=generator) < 0.6
    with final_grid(backbone) as found:
        output, trace = reduced(model, inputs, Replay(masks), mode)
    reference = Reference(trace, backbone.family.causal, mode)
    with reference.on(backbone, fixed.mask), final_grid(backbone) as expected, torch.no_grad():
        right = model(**inputs)
    begun = trace.stages[0].present
    assert_near(found[-1][begun], expected[-1][begun])
    assert not torch.equal(trace.present[0], trace.present[-1]), "no token was removed, so the test shows nothing"
    assert bool(trace.present[-1][fixed.mask].all()), "a protected token was removed"
    assert answers(output).keys() == answers(right).keys()
    for key, value in answers(right).items():
        assert_near(real(answers(output)[key], trace), real(value, trace))


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=1e-5)


@hardest
def test_rows_do_not_depend_on_their_batch_mates(model, name, padding):
    inputs = batch(ZOO[name], padding)
    together, trace = run(model, inputs, baseline("norm", 0.5))
    row = 1
    alone, own = run(model, {key: value[[row]] for key, value in inputs.items()}, baseline("norm", 0.5))
    assert torch.equal(own.present[:, 0], trace.present[:, row])
    expected, found = real(together, trace, row), real(alone, own)
    assert_near(found, expected)


@hardest
def test_bfloat16_is_as_accurate_as_the_native_bfloat16(model, name, padding):
    """Native and reduced pass both round, and are about equally far from float32."""
    inputs = batch(ZOO[name], padding)
    with torch.no_grad():
        exact = answer(model(**inputs))
    half = ZOO[name].build().bfloat16()
    inputs = {key: value.bfloat16() if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        native = answer(half(**inputs))
    out, trace = run(half, inputs, KeepAll())
    exact, native, out = (real(value, trace) for value in (exact, native, out))
    assert out.dtype == native.dtype
    error = max(float((native - exact).abs().max()), 2**-7 * float(exact.abs().max()))
    assert float((out - exact).abs().max()) <= 2 * error


@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].family.causal])
def test_in_causal_families_later_tokens_do_not_affect_earlier_ones(model, name):
    """A change of the last token, into which nothing is merged, changes no earlier remaining token, merged or not."""
    inputs = batch(ZOO[name])
    # The end-of-text token, which a caption's head reads, stays the same.
    inputs["input_ids"][:, 3], inputs["input_ids"][:, 5], inputs["input_ids"][:, -1] = 49, END, 7
    changed = {key: value.clone() for key, value in inputs.items()}
    changed["input_ids"][:, -1] = 8
    masks = torch.rand(2, 4, 12, generator=torch.Generator().manual_seed(5)) < 0.5
    masks[:, :, 5] = True
    backbone = Backbone(model)
    with final_grid(backbone) as grids:
        _, trace = run(model, inputs, Replay(masks))
        run(model, changed, Replay(masks))
    last = trace.stages[-1]
    first, second = (grid[last.row, last.position] for grid in grids)
    earlier = last.position < 11
    # Rounding may differ, because experts get the tokens of a layer in other batches.
    torch.testing.assert_close(first[earlier], second[earlier], atol=1e-5, rtol=1e-5)
    assert (first[~earlier] - second[~earlier]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ZOO)
def test_rows_are_padded_only_in_families_tested_with_padding(name):
    assert ZOO[name].family.padded == (ZOO[name].paddings != ("none",))


@pytest.mark.parametrize("name", ["siglip_text_model"])
def test_masks_that_hide_tokens_the_head_reads_are_refused(model, name):
    """SigLIP's text model reads the last position with any mask; a mask that hides no token is accepted."""
    inputs = batch(ZOO[name], "right")
    with pytest.raises(RltrError, match="leave attention_mask out.*padding='max_length'"):
        run(model, inputs, KeepAll())
    mask = inputs.pop("attention_mask")
    for masks in ({}, {"attention_mask": torch.ones_like(mask)}):
        with torch.no_grad():
            native = model(**inputs, **masks).pooler_output
        output, _ = reduced(model, inputs | masks, KeepAll())
        torch.testing.assert_close(output.pooler_output, native, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].family.cached])
def test_a_cache_is_refused_and_never_filled(model, name):
    inputs, backbone = batch(ZOO[name]), Backbone(model)
    with backbone.attached(), torch.no_grad():
        output, _ = ReducedModel(backbone, KeepAll(), LAYERS)(inputs)
        assert output.get("past_key_values") is None
        with pytest.raises(RltrError, match="use_cache=False"):
            ReducedModel(backbone, KeepAll(), LAYERS)(inputs | {"use_cache": torch.tensor(True)})


COUNTED = [name for name in ZOO if not ZOO[name].experts and name != "diffllama"]  # the others are measured


@pytest.mark.parametrize("name", COUNTED)
def test_counted_flops_equal_torchs_own(model, name):
    inputs, backbone = batch(ZOO[name]), Backbone(model)
    paths = {module: path for path, module in model.named_modules()}
    # torch counts no FLOPs for the CPU's fused attention, so it gets the unfused one to count.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(**inputs)
    counted = counter.get_flop_counts()
    cost, counts = FlopsCost.count(backbone.layers), torch.full((4,), float(row_length(backbone, inputs)))
    expected = sum(sum(counted[f"{type(model).__name__}.{paths[layer]}"].values()) for layer in set(backbone.layers))
    assert span(cost, 0, backbone.depth, counts).sum().item() == expected


@pytest.mark.parametrize("name", sorted(ZOO.keys() - COUNTED))
def test_flops_that_cannot_be_counted_are_refused(model, name):
    with pytest.raises(RltrError, match="cannot count the FLOPs"):
        FlopsCost.count(Backbone(model).layers)


@pytest.mark.parametrize("name", ZOO)
def test_latency_is_measured_with_all_arguments_of_the_layers(model, name):
    inputs, backbone = batch(ZOO[name]), Backbone(model)
    tokens = row_length(backbone, inputs)
    one = {key: value[:1] for key, value in inputs.items()}
    cost = LatencyCost.measure(backbone, tokens, rows=2, inputs=one, points=2, passes=1, limit=0.0)
    assert dense(cost, backbone.depth, tokens) > 0


def test_every_family_is_in_the_zoo():
    assert {entry.config().model_type for entry in ZOO.values()} == FAMILIES.keys() <= ZOO.keys()


def test_a_bidirectional_decoder_is_not_causal():
    """As EmbeddingGemma: tokens may be merged into earlier ones, and the first token is pooled."""
    causal, both = (Backbone(ZOO[name].build()) for name in ("gemma3_text", "gemma3_text, to both sides"))
    assert causal.family.causal and causal.family.pooled == "last"
    assert not both.family.causal and both.family.pooled == "first"
    assert both.family.trailing == 1, "a head may still read the last token"


@pytest.mark.parametrize("padding", ["none", "right"])
def test_the_last_token_that_is_not_padding_is_protected(padding):
    """Classifiers of transformers read it, with any mask."""
    model = ZOO["llama"].build()
    inputs = {"input_ids": batch(ZOO["llama"])["input_ids"].clone()}
    ends = [5, 7, 9, inputs["input_ids"].shape[1]]
    for row, end in enumerate(ends):
        inputs["input_ids"][row, end:] = model.config.pad_token_id
    if padding == "right":  # a text may itself end with the padding token
        inputs["attention_mask"] = (torch.arange(inputs["input_ids"].shape[1]) < torch.tensor(ends)[:, None] + 1).long()
    fixed = Protected()
    run(model, inputs, fixed)
    assert all(fixed.mask[row, end - 1] for row, end in enumerate(ends))
