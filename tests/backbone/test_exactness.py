"""The reduced forward pass is exact for any kept tokens, and no row depends on the other rows of its batch."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers as hf

from rltr.runtime.backbone import Backbone
from rltr.selectors import BASELINES, KeepAll
from rltr.selectors.reduced_model import ReducedModel
from tests.backbone.conftest import (
    DEPTH,
    LAYERS,
    Recorder,
    Replay,
    close,
    matrix,
    modes,
    native,
    random_masks,
    reduced,
    reference,
    selector,
)
from tests.conftest import build


@matrix
def test_keeping_everything_equals_the_native_forward(case, name, mode):
    logits, states = native(case)
    out, grid, trace = reduced(case, selector(name, 1.0), mode)
    close(out, logits, 1e-6)
    # Tolerance for float32 rounding: hidden states are larger than logits.
    close(grid[case.present], states[case.present], 1e-6 * states[case.present].abs().max().item())
    assert all(torch.equal(stage.present, case.present) for stage in trace.stages)


@modes
def test_a_decision_that_keeps_everything_leaves_the_batch_as_it_is(case, mode):
    """No token gets a size, and the attention plan is not made again."""
    everyone = torch.ones_like(case.present)
    _, _, trace = reduced(case, Replay([everyone] * len(LAYERS)), mode)
    assert all(stage is trace.stages[0] for stage in trace.stages) and trace.stages[0].size is None


@matrix
def test_every_selector_is_exact_and_independent_of_batch_mates(case, name, mode):
    """A row's result equals that of the row-by-row reference, and that of the row alone."""
    recorder, row = Recorder(selector(name)), 1
    logits, states, trace = reduced(case, recorder, mode)
    expected, grid = reference(case, row, recorder.masks, mode, recorder.into if name == "tome" else None)
    close(logits[row], expected)
    close(states[row], grid)
    # A random choice is drawn for the whole batch, so here it is replayed.
    again = Replay([mask[[row]] for mask in recorder.masks]) if name == "random" else selector(name)
    alone, _, own = reduced(case, again, mode, {key: value[[row]] for key, value in case.inputs.items()})
    close(alone[0], logits[row])
    assert torch.equal(own.present[:, 0], trace.present[:, row])


@modes
@pytest.mark.parametrize("share", [0.7, 0.3, 0.0])
def test_random_masks_equal_the_row_by_row_reference(case, mode, share):
    layers = (0, 2, 3)
    masks = random_masks(case, share=share, decisions=3)
    logits, states, trace = reduced(case, Replay(masks), mode, layers=layers)
    for row in range(len(logits)):
        expected, grid = reference(case, row, masks, mode, layers=layers)
        close(logits[row], expected)
        close(states[row], grid)
    # The comparison would show nothing if removed tokens did not change the answer.
    assert (logits - native(case)[0]).abs().max() > 1e-2
    gone = torch.stack([case.present, *masks]).cumprod(0).bool()
    gone[:, :, : case.leading] = True
    assert torch.equal(trace.present, gone)


def test_bfloat16_keeps_its_own_accuracy(case):
    logits, _ = native(case)
    half = replace(case, model=copy.deepcopy(case.model).bfloat16())
    half.inputs = {n: v.bfloat16() if v.is_floating_point() else v for n, v in case.inputs.items()}
    own, _ = native(half)
    out, _, _ = reduced(half, KeepAll())
    assert out.dtype == torch.bfloat16
    # Two correct bfloat16 results may differ by twice the error that each has relative to float32.
    error = max((own - logits).abs().max(), logits.abs().max() * 2**-8)
    assert (out - own).abs().max() <= 2 * error
    masks = random_masks(case)
    exact, _, _ = reduced(case, Replay(masks), "drop")
    rough, _, _ = reduced(half, Replay(masks), "drop")
    assert (rough - exact).abs().max() <= 3 * error
    merged, _, _ = reduced(half, Replay(masks), "merge")
    assert merged.dtype == torch.bfloat16 and merged.isfinite().all()


@pytest.mark.parametrize("name", ["none", *BASELINES])
@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_distilbert"])
def test_results_do_not_depend_on_the_amount_of_padding(request, text_inputs, name, model):
    backbone = Backbone(request.getfixturevalue(model))
    longer = {key: torch.nn.functional.pad(value, (0, 5)) for key, value in text_inputs.items()}
    with backbone.attached(), torch.no_grad():
        out, _ = ReducedModel(backbone, selector(name), LAYERS)(text_inputs)
        padded, trace = ReducedModel(backbone, selector(name), LAYERS)(longer)
    close(padded["logits"], out["logits"], 1e-6)
    assert trace.grid == text_inputs["input_ids"].shape[1] + 5


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_distilbert"])
def test_holes_in_the_attention_mask_count_as_padding(request, text_inputs, model):
    text_inputs["attention_mask"][0, 3:6] = 0
    loaded = request.getfixturevalue(model)
    backbone = Backbone(loaded)
    with backbone.attached(), torch.no_grad():
        out, trace = ReducedModel(backbone, KeepAll(), LAYERS)(text_inputs)
    close(out["logits"], loaded(**text_inputs).logits, 1e-6)
    assert torch.equal(trace.stages[0].present, text_inputs["attention_mask"].bool())


@modes
def test_a_position_holds_the_final_state_of_its_representative(case, mode):
    """Tokens are removed at two decisions; no place keeps a state of an earlier layer."""
    masks = random_masks(case)
    _, grid, trace = reduced(case, Replay(masks), mode)
    last = trace.stages[-1].present
    for row, (states, there) in enumerate(zip(grid, last, strict=True)):
        remaining = {tuple(state.tolist()) for state in states[there]}
        assert all(tuple(state.tolist()) in remaining for state in states), f"row {row}"
    assert (trace.stages[0].present & ~last).any()


@pytest.mark.parametrize("name", ["norm", "uniform", "redundancy", "tome"])
def test_a_mean_over_positions_is_the_size_weighted_mean_of_remaining_tokens(case, name):
    """Merged tokens count by their size, also through chains of merges; padding is excluded."""
    _, grid, trace = reduced(case, selector(name), "merge")
    left = trace.stages[-1]
    for row in range(len(grid)):
        mine = left.row == row
        states, size = grid[row, left.position[mine]], left.size[mine, None]
        close(grid[row, case.present[row]].mean(0), (states * size).sum(0) / size.sum())


@modes
def test_protected_tokens_are_always_kept(case, mode):
    no_token = torch.zeros(len(LAYERS), *case.present.shape, dtype=torch.bool)
    logits, _, trace = reduced(case, Replay(no_token), mode)
    leading = torch.arange(case.present.shape[1]) < case.leading
    assert torch.equal(trace.stages[-1].present, leading.expand_as(case.present))
    assert logits.isfinite().all()


def test_the_trace_counts_the_tokens_of_each_layer(case):
    masks = random_masks(case)
    worked = []
    backbone = Backbone(case.model)
    with backbone.attached():
        # Counted inside the layers, because decisions are applied in between.
        firsts = [
            next(part for part in layer.modules() if isinstance(part, torch.nn.Linear)) for layer in backbone.layers
        ]
        handles = [
            first.register_forward_pre_hook(lambda module, args: worked.append(args[0].shape[:2].numel()))
            for first in firsts
        ]
        _, trace = ReducedModel(backbone, Replay(masks), LAYERS)(case.inputs)
        for handle in handles:
            handle.remove()
    counts = trace.counts_per_layer(DEPTH)
    assert counts.sum(1).tolist() == worked
    assert torch.equal(counts[0], case.present.sum(1)) and torch.equal(counts[1], trace.present[1].sum(1))


@modes
def test_recorded_hidden_states_are_whole_grids(case, mode):
    """Recorded hidden states of every layer have all original tokens, each with the state of its representative."""
    model = copy.deepcopy(case.model)  # transformers leaves its own hooks on a model that has recorded hidden states
    masks, backbone = random_masks(case), Backbone(model)
    with torch.no_grad():
        native = model(**case.inputs, output_hidden_states=True).hidden_states
        with backbone.attached():
            everything = ReducedModel(backbone, KeepAll(), LAYERS, mode)(case.inputs | {"output_hidden_states": True})[
                0
            ]
            plain, trace = ReducedModel(backbone, Replay(masks), LAYERS, mode)(case.inputs)
            output, _ = ReducedModel(backbone, Replay(masks), LAYERS, mode)(
                case.inputs | {"output_hidden_states": True}
            )
    close(output["logits"], plain["logits"], 1e-6)
    assert len(output["hidden_states"]) == len(everything["hidden_states"]) == len(native) == DEPTH + 1
    for index, (states, kept, wanted) in enumerate(
        zip(output["hidden_states"], everything["hidden_states"], native, strict=True)
    ):
        assert states.shape == kept.shape == wanted.shape
        close(kept[case.present], wanted[case.present])
        if index <= LAYERS[0]:
            close(states[case.present], wanted[case.present])
        stage = sum(layer < index for layer in LAYERS)
        for row, there in enumerate(trace.present[stage]):
            remaining = {tuple(state.tolist()) for state in states[row, there]}
            assert all(tuple(state.tolist()) in remaining for state in states[row, case.present[row]])


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters", "DINOv3ViT", "Beit"])
def test_feature_maps_of_backbone_classes_are_whole_grids(kind):
    """Backbone classes record hidden states in their own forward."""
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(hf, f"{kind}Config")(**shape, image_size=16, patch_size=4, out_indices=[2, 4])
    model = build(getattr(hf, f"{kind}Backbone"), config)
    pixels = torch.randn(2, 3, 16, 16)
    backbone = Backbone(model)
    with torch.no_grad():
        native = model(pixel_values=pixels).feature_maps
        with backbone.attached():
            kept, _ = ReducedModel(backbone, KeepAll(), [1, 2])({"pixel_values": pixels})
            fewer, _ = ReducedModel(backbone, selector("uniform"), [1, 2])({"pixel_values": pixels})
    for expected, same, reduced_map in zip(native, kept["feature_maps"], fewer["feature_maps"], strict=True):
        close(same, expected)
        assert reduced_map.shape == expected.shape and not torch.equal(reduced_map, expected)
