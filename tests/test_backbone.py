"""The reduced forward pass is exact, leaves the model as it was, and refuses what it cannot do exactly."""

import copy
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
import transformers as hf

from rltr.attention import current
from rltr.backbone import Backbone
from rltr.errors import RltrError
from rltr.forward import Choice
from rltr.reduction import Reduction
from rltr.selectors import BASELINES, KeepAll, Selector, baseline
from tests.conftest import build

LAYERS = (1, 3)
DEPTH = 4
MODES = ("merge", "drop")
# Every selector in every mode. ToMe merges by definition, but its choice of who stays can be dropped too.
MATRIX = [(name, mode) for name in ("none", *BASELINES) for mode in MODES]
matrix = pytest.mark.parametrize(("name", "mode"), MATRIX)
modes = pytest.mark.parametrize("mode", MODES)


def selector(name, keep_rate=0.5):
    return KeepAll() if name == "none" else baseline(name, keep_rate)


class Replay(Selector):
    """Keeps what masks over the original tokens say, one mask for each decision."""

    def __init__(self, masks):
        self.masks = masks

    def __call__(self, decision):
        return Choice(self.masks[decision.index][decision.tokens.row, decision.tokens.position])


class Recorder(Selector):
    """Another selector, whose choices it writes down in terms of original tokens."""

    def __init__(self, inner):
        self.inner = inner
        self.masks, self.into = [], []

    def check(self, backbone, layers):
        self.inner.check(backbone, layers)

    def __call__(self, decision):
        choice, tokens = self.inner(decision), decision.tokens
        mask = torch.zeros_like(tokens.present)
        mask[tokens.row, tokens.position] = choice.keep
        self.masks.append(mask)
        into: list[dict[int, int]] = [{} for _ in tokens.counts]
        if choice.into is not None:
            for p, partner in zip((~choice.keep).nonzero()[:, 0], choice.into, strict=True):
                into[tokens.row[p]][int(tokens.position[p])] = int(tokens.position[partner])
        self.into.append(into)
        return choice


class Boom(Selector):
    """Fails at its second decision."""

    def __call__(self, decision):
        if decision.index == 1:
            raise ZeroDivisionError("boom")
        return Choice(decision.protected)


def random_masks(case, seed=0, share=0.5, decisions=2):
    """A mask for each decision; protected tokens are sometimes told to leave."""
    return torch.rand(decisions, *case.present.shape, generator=torch.Generator().manual_seed(seed)) < share


@contextmanager
def last_hidden_state(model):
    """Catch the base model's ``last_hidden_state``, the grid that the head gets."""
    caught = []
    handle = model.base_model.register_forward_hook(lambda module, args, out: caught.append(out.last_hidden_state))
    try:
        yield caught
    finally:
        handle.remove()


def entering(args, kwargs):
    """The hidden states a layer was called with."""
    return args[0] if args else kwargs["hidden_states"]


def before_layer(model, layer, inputs):
    """The hidden states that enter a layer of the model itself."""
    caught = []
    handle = (
        Backbone(model)
        .layers[layer]
        .register_forward_pre_hook(lambda module, args, kwargs: caught.append(entering(args, kwargs)), with_kwargs=True)
    )
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return caught[0]


def native(case, rows=slice(None)):
    """Logits and last hidden state of the model itself."""
    with torch.no_grad(), last_hidden_state(case.model) as states:
        logits = case.model(**{name: value[rows] for name, value in case.inputs.items()}).logits
    return logits, states[0]


def reduced(case, chosen, mode="merge", inputs=None, layers=LAYERS):
    """Logits, last hidden state and trace of the reduced model."""
    backbone = Backbone(case.model)
    with backbone.attached(), torch.no_grad(), last_hidden_state(case.model) as states:
        output, trace = Reduction(backbone, chosen, layers, mode)(case.inputs if inputs is None else inputs)
    return output["logits"], states[0], trace


def most_similar(value, p, others):
    """The one of ``others`` whose centred value has the largest cosine with that of ``p``."""
    centred = {q: value[q] - value[q].mean() for q in (p, *others)}
    return max(others, key=lambda q: torch.cosine_similarity(centred[p], centred[q], 0).item())


def reference(case, row, masks, mode, into=None, layers=LAYERS):
    """One row's reduced forward pass, as plain and slow as possible: native layers on a batch of one kept token set.

    Tokens are plain dictionary entries by original position; sizes weigh the attention by a bias mask.
    """
    model, modules = case.model, Backbone(case.model).layers
    inputs = {name: value[row : row + 1] for name, value in case.inputs.items()}
    grid = before_layer(model, 0, inputs)[0].clone()
    there = case.present[row].nonzero()[:, 0].tolist()
    value = {p: grid[p] for p in there}
    size = dict.fromkeys(there, 1.0)
    for index, layer in enumerate(modules):
        if index in layers:
            mask = masks[layers.index(index)][row]
            stay = [p for place, p in enumerate(there) if place < case.leading or mask[p]]
            side = {p: place % 2 for place, p in enumerate(there)}
            groups = {p: [p] for p in stay}
            gone = [p for p in there if p not in groups]
            grid[gone] = torch.stack([value[p] for p in gone]) if gone else grid[gone]
            if mode == "merge":
                for p in gone:
                    if into is not None and p in into[layers.index(index)][row]:
                        groups[into[layers.index(index)][row][p]].append(p)
                    elif others := [q for q in stay[case.leading :] if side[q] != side[p]] or stay[case.leading :]:
                        groups[most_similar(value, p, others)].append(p)
                merged = {q: sum(size[p] * value[p] for p in group) for q, group in groups.items()}
                size = {q: sum(size[p] for p in group) for q, group in groups.items()}
                value = {q: merged[q] / size[q] for q in stay}
            there = stay
        stacked = torch.stack([value[p] for p in there])[None]
        bias = torch.tensor([size[p] for p in there]).log().expand(1, 1, len(there), len(there))
        with torch.no_grad():
            out = layer(stacked, attention_mask=bias if mode == "merge" else None)
        value = dict(zip(there, (out[0] if isinstance(out, tuple) else out)[0], strict=True))
    for p in there:
        grid[p] = value[p]
    handle = modules[-1].register_forward_hook(
        lambda module, args, out: (grid[None], *out[1:]) if isinstance(out, tuple) else grid[None]
    )
    with torch.no_grad(), last_hidden_state(model) as states:
        logits = model(**inputs).logits
    handle.remove()
    return logits[0], states[0][0]


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


# ---- exactness


@matrix
def test_keeping_everything_equals_the_native_forward(case, name, mode):
    logits, states = native(case)
    out, grid, trace = reduced(case, selector(name, 1.0), mode)
    close(out, logits, 1e-6)
    # As near as rounding lets two float32 implementations be: hidden states are larger than logits.
    close(grid[case.present], states[case.present], 1e-6 * states[case.present].abs().max().item())
    assert all(torch.equal(stage.present, case.present) for stage in trace.stages)


@matrix
def test_every_selector_is_exact_and_independent_of_batch_mates(case, name, mode):
    """A row's result is that of the row-by-row reference, and that of the row alone."""
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
    # The comparison would mean nothing if it did not matter which tokens leave.
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
    # Two bfloat16 runs that are both right may lie on either side of it: twice as far apart as one from float32.
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
        out, _ = Reduction(backbone, selector(name), LAYERS)(text_inputs)
        padded, trace = Reduction(backbone, selector(name), LAYERS)(longer)
    close(padded["logits"], out["logits"], 1e-6)
    assert trace.grid == text_inputs["input_ids"].shape[1] + 5


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_distilbert"])
def test_holes_in_the_attention_mask_are_padding_too(request, text_inputs, model):
    text_inputs["attention_mask"][0, 3:6] = 0
    loaded = request.getfixturevalue(model)
    backbone = Backbone(loaded)
    with backbone.attached(), torch.no_grad():
        out, trace = Reduction(backbone, KeepAll(), LAYERS)(text_inputs)
    close(out["logits"], loaded(**text_inputs).logits, 1e-6)
    assert torch.equal(trace.stages[0].present, text_inputs["attention_mask"].bool())


@modes
def test_a_dropped_token_keeps_its_last_value(case, mode):
    """Dropped before layer 2, it has the value that layer 1 gave it."""
    masks = random_masks(case, decisions=1)
    _, grid, trace = reduced(case, Replay(masks), mode, layers=(2,))
    value = before_layer(case.model, 2, case.inputs)
    gone = trace.stages[0].present & ~trace.stages[1].present
    assert gone.any()
    final = next((m for m in case.model.base_model.children() if isinstance(m, torch.nn.LayerNorm)), None)
    close(grid[gone], (value if final is None else final(value))[gone], 1e-6)


@modes
def test_protected_tokens_stay_whatever_the_selector_says(case, mode):
    nobody = torch.zeros(len(LAYERS), *case.present.shape, dtype=torch.bool)
    logits, _, trace = reduced(case, Replay(nobody), mode)
    leading = torch.arange(case.present.shape[1]) < case.leading
    assert torch.equal(trace.stages[-1].present, leading.expand_as(case.present))
    assert logits.isfinite().all()


def test_the_trace_counts_what_each_layer_worked_on(case):
    masks = random_masks(case)
    worked = []
    backbone = Backbone(case.model)
    with backbone.attached():
        # Behind rltr's own hooks, so that they see what the layers see.
        handles = [
            layer.register_forward_pre_hook(
                lambda module, args, kwargs: worked.append(entering(args, kwargs).shape[:2].numel()), with_kwargs=True
            )
            for layer in backbone.layers
        ]
        _, trace = Reduction(backbone, Replay(masks), LAYERS)(case.inputs)
        for handle in handles:
            handle.remove()
    counts = trace.counts_per_layer(DEPTH)
    assert counts.sum(1).tolist() == worked
    assert torch.equal(counts[0], case.present.sum(1)) and torch.equal(counts[1], trace.present[1].sum(1))


# ---- the model is left as it was (the fixture ``case`` checks weights, hooks and attention after every test)


def test_detach_restores_everything_bit_for_bit(case):
    before, _ = native(case)
    backbone = Backbone(case.model)
    state = dict(case.model.config.to_dict())
    with backbone.attached(), torch.no_grad():
        assert torch.equal(case.model(**case.inputs).logits, before)
        for mode in MODES:
            Reduction(backbone, selector("norm"), LAYERS, mode)(case.inputs)
        assert torch.equal(case.model(**case.inputs).logits, before)
    assert torch.equal(native(case)[0], before)
    assert case.model.config.to_dict() == state


def test_an_eager_model_gets_its_eager_attention_back(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    model.set_attn_implementation("eager")
    before = model(**image_inputs).logits
    backbone = Backbone(model)
    with backbone.attached():
        Reduction(backbone, selector("norm"), LAYERS)(image_inputs)
    assert model.config._attn_implementation == "eager"
    assert torch.equal(model(**image_inputs).logits, before)


def test_attaching_counts(tiny_vit):
    backbone = Backbone(tiny_vit)
    with backbone.attached():
        with backbone.attached():
            pass
        assert tiny_vit.config._attn_implementation == "rltr"
        assert sum(len(layer._forward_pre_hooks) for layer in backbone.layers) == DEPTH
    assert tiny_vit.config._attn_implementation == "sdpa"
    with pytest.raises(RltrError, match="not attached"):
        backbone.detach()


def test_a_failing_selector_leaves_nothing_behind(case):
    before, _ = native(case)
    backbone = Backbone(case.model)
    with backbone.attached():
        with pytest.raises(ZeroDivisionError, match="boom"):
            Reduction(backbone, Boom(), LAYERS)(case.inputs)
        assert current.get() is None
        assert torch.equal(case.model(**case.inputs).logits, before)
        out, _ = Reduction(backbone, KeepAll(), LAYERS)(case.inputs)
        close(out["logits"], before, 1e-6)
    assert torch.equal(native(case)[0], before)


def test_a_failing_model_leaves_nothing_behind(case):
    before, _ = native(case)
    backbone = Backbone(case.model)

    def fail(module, args):
        raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError), backbone.attached():
        handle = backbone.layers[2].register_forward_pre_hook(fail)
        try:
            Reduction(backbone, selector("uniform"), LAYERS)(case.inputs)
        finally:
            handle.remove()
    assert current.get() is None
    assert torch.equal(native(case)[0], before)


@modes
def test_a_selector_may_run_the_same_model(case, mode):
    """Both natively and reduced, inside its own decision."""
    before, _ = native(case)
    masks = random_masks(case)
    backbone = Backbone(case.model)
    inner_masks = random_masks(case, seed=1)

    class Curious(Replay):
        def __call__(self, decision):
            assert torch.equal(case.model(**case.inputs).logits, before)
            inner, _ = Reduction(backbone, Replay(inner_masks), LAYERS, mode)(case.inputs)
            assert torch.equal(inner["logits"], expected_inner)
            return super().__call__(decision)

    with backbone.attached(), torch.no_grad():
        expected_inner = Reduction(backbone, Replay(inner_masks), LAYERS, mode)(case.inputs)[0]["logits"]
        expected = Reduction(backbone, Replay(masks), LAYERS, mode)(case.inputs)[0]["logits"]
        out, _ = Reduction(backbone, Curious(masks), LAYERS, mode)(case.inputs)
    assert torch.equal(out["logits"], expected)


def test_threads_do_not_see_each_other(case):
    """Native and reduced runs of one model at once, each stopped in its first decision until all are there."""
    before, _ = native(case)
    backbone = Backbone(case.model)
    results, gate = {}, threading.Barrier(3, timeout=60)

    class Wait(Replay):
        def __call__(self, decision):
            gate.wait()
            return super().__call__(decision)

    def run(name, work):
        with torch.no_grad():
            results[name] = work().logits

    def plain():
        gate.wait()
        output = case.model(**case.inputs)
        gate.wait()
        return output

    work = {"native": plain}
    expected = {"native": before}
    for seed in (0, 1):
        masks = random_masks(case, seed)
        work[f"reduced {seed}"] = partial(
            lambda chosen: Reduction(backbone, chosen, LAYERS)(case.inputs)[0], Wait(masks)
        )
        expected[f"reduced {seed}"] = reduced(case, Replay(masks))[0]
    with backbone.attached():
        threads = [threading.Thread(target=run, args=item) for item in work.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results.keys() == expected.keys()
    assert all(torch.equal(results[name], expected[name]) for name in expected)


def test_the_fingerprint_tells_what_is_computed_with_the_weights():
    small = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "intermediate_size": 16, "vocab_size": 20, "pad_token_id": 0,
    }  # fmt: skip

    def fingerprint(**changes):
        return Backbone(build(hf.Gemma2Model, hf.Gemma2Config(**small | changes))).fingerprint

    same = fingerprint()
    assert fingerprint() == same
    for changes in (
        {"attn_logit_softcapping": 7.0},
        {"query_pre_attn_scalar": 9},
        {"layer_types": ["full_attention"] * 2},
    ):
        assert fingerprint(**changes) != same


def test_the_fingerprint_tells_weights_apart(tiny_vit, tiny_deit):
    other = copy.deepcopy(tiny_vit)
    assert Backbone(other).fingerprint == Backbone(tiny_vit).fingerprint
    with torch.no_grad():
        other.classifier.bias[0] += 1e-3
    assert Backbone(other).fingerprint != Backbone(tiny_vit).fingerprint
    assert Backbone(tiny_deit).fingerprint != Backbone(tiny_vit).fingerprint
    heads = copy.deepcopy(tiny_vit)
    heads.config.num_attention_heads = 4
    assert Backbone(heads).fingerprint != Backbone(tiny_vit).fingerprint
    half = copy.deepcopy(tiny_vit).to(torch.bfloat16)
    assert Backbone(half).fingerprint == Backbone(tiny_vit).fingerprint


# ---- refusals, with the reason


SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
REFUSED = {
    "decoder": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL, is_decoder=True)), "causally"),
    "cross attention": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL, is_decoder=True, add_cross_attention=True)),
        "another model's output",
    ),
    "chunked": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL, chunk_size_feed_forward=2)),
        "chunk_size_feed_forward cuts",
    ),
    "one layer": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL | {"num_hidden_layers": 1})),
        "it has 1 layers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_models_are_refused_with_the_reason(name):
    make, reason = REFUSED[name]
    model = make().eval()
    with pytest.raises(RltrError, match=reason) as error:
        Backbone(model)
    assert type(model).__name__ in str(error.value)


def test_a_model_that_declares_no_layers_is_refused(tiny_vit, monkeypatch):
    monkeypatch.setattr(hf.ViTPreTrainedModel, "_can_record_outputs", None)
    with pytest.raises(RltrError, match="does not declare its layers"):
        Backbone(tiny_vit)


@pytest.mark.parametrize("layers", [[], [2, 1], [1, 1], [-1, 2], [1, 4]])
def test_impossible_decision_layers_are_refused(tiny_vit, layers):
    with pytest.raises(RltrError, match="from 0 to 3"):
        Reduction(Backbone(tiny_vit), KeepAll(), layers)


def test_running_without_attaching_is_refused(tiny_vit, image_inputs):
    with pytest.raises(RltrError, match="not attached"):
        Reduction(Backbone(tiny_vit), KeepAll(), LAYERS)(image_inputs)


def test_training_mode_is_refused(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit).train()
    backbone = Backbone(model)
    with backbone.attached(), pytest.raises(RltrError, match="training mode"):
        Reduction(backbone, KeepAll(), LAYERS)(image_inputs)


@pytest.mark.parametrize("record", ["output_hidden_states", "output_attentions"])
@pytest.mark.parametrize("through", ["inputs", "config"])
def test_recording_layers_is_refused(tiny_vit, image_inputs, record, through):
    model = copy.deepcopy(tiny_vit)
    backbone = Backbone(model)
    inputs = image_inputs | ({record: True} if through == "inputs" else {})
    if through == "config":
        # transformers itself refuses this switch for attention without weights, unless it is set behind its back.
        model.config.__dict__[record if record in model.config.__dict__ else f"_{record}"] = True
    with backbone.attached(), pytest.raises(RltrError, match=f"{record}=True"):
        backbone.run(backbone.forward(KeepAll(), LAYERS), inputs)


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_distilbert"])
def test_a_mask_that_is_not_padding_is_refused(request, text_inputs, model):
    backbone = Backbone(request.getfixturevalue(model))
    square = text_inputs["attention_mask"].bool()[:, None, None].expand(-1, 1, 12, -1)
    with backbone.attached(), pytest.raises(RltrError, match="4 dimensions"):
        Reduction(backbone, KeepAll(), LAYERS)(text_inputs | {"attention_mask": square})


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_distilbert"])
@pytest.mark.parametrize("hidden", [slice(None), slice(0, 2)], ids=["a whole row", "padding at the start"])
def test_a_row_without_its_first_token_is_refused(request, text_inputs, model, hidden):
    text_inputs["attention_mask"][1, hidden] = 0
    backbone = Backbone(request.getfixturevalue(model))
    with backbone.attached(), pytest.raises(RltrError, match="padding at the end"):
        Reduction(backbone, KeepAll(), LAYERS)(text_inputs)


def test_two_backbones_cannot_be_attached_to_one_model(tiny_vit):
    with Backbone(tiny_vit).attached(), pytest.raises(RltrError, match="another rltr.Backbone is attached"):
        Backbone(tiny_vit).attach()
    assert tiny_vit.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["tome", "cls_attention"])
def test_selectors_that_look_at_the_layer_before_refuse_layer_0(tiny_vit, name):
    with pytest.raises(RltrError, match="from 1 on"):
        Reduction(Backbone(tiny_vit), selector(name), (0, 2))
