"""Cost models: FLOPs equal torch's own count; latency tables read back what they hold and serve only where measured."""

import dataclasses
import json
import re

import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rltr.cost import COST_MODELS, FlopsCost, LatencyCost, Machine, dense, from_dict, span
from rltr.cost.latency import layer_kind
from rltr.cost.table import Table
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.system.machine import processor_name
from tests.clocks import Machine as MadeUp
from tests.clocks import clock_of

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = {**SHAPE, "patch_size": 4, "num_labels": 3}
WORDS = {**SHAPE, "vocab_size": 50, "intermediate_size": 48, "max_position_embeddings": 64}
DISTIL = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "vocab_size": 50, "max_position_embeddings": 64}


def images(config_class, model_class, extra=1, **more):
    """A model builder for images of ``patches ** 2`` patches and ``extra`` further tokens."""

    def build(patches):
        model = model_class(config_class(**VISION, image_size=4 * patches, **more)).eval()
        return model, {"pixel_values": torch.randn(2, 3, 4 * patches, 4 * patches)}, patches**2 + extra

    return build


def texts(config_class, model_class, **config):
    """A model builder for texts of ``length`` tokens."""

    def build(length):
        model = model_class(config_class(**config)).eval()
        return model, {"input_ids": torch.randint(5, 50, (2, length))}, length

    return build


MODELS = {
    "vit": images(hf.ViTConfig, hf.ViTForImageClassification, intermediate_size=48),
    "deit": images(hf.DeiTConfig, hf.DeiTForImageClassification, extra=2, intermediate_size=48),
    "dinov2": images(hf.Dinov2Config, hf.Dinov2ForImageClassification),
    "dinov2-swiglu": images(hf.Dinov2Config, hf.Dinov2ForImageClassification, use_swiglu_ffn=True),
    "bert": texts(hf.BertConfig, hf.BertForSequenceClassification, **WORDS),
    "roberta": texts(hf.RobertaConfig, hf.RobertaForSequenceClassification, **WORDS, pad_token_id=1),
    "distilbert": texts(hf.DistilBertConfig, hf.DistilBertForSequenceClassification, **DISTIL),
}


def layers_of(model):
    """The model's repeated blocks."""
    return next(list(module) for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == 3)


@pytest.mark.parametrize("size", [2, 5, 9])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_flops_equal_torchs_own_count_on_the_real_model(build, size):
    model, inputs, tokens = build(size)
    layers = layers_of(model)
    names = {module: name for name, module in model.named_modules()}
    # torch counts no FLOPs for the CPU's fused attention, so it gets the unfused one to count.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(**inputs)
    counted = counter.get_flop_counts()

    cost = FlopsCost.count(layers)
    counts = torch.full((2,), tokens, dtype=torch.float64)
    for index, layer in enumerate(layers):
        expected = sum(counted[f"{type(model).__name__}.{names[layer]}"].values())
        assert cost.layer(index, counts).sum().item() == expected
    assert span(cost, 0, 3, counts).tolist() == [dense(cost, 3, tokens)] * 2


def test_flops_of_a_decision_are_what_the_selector_says():
    cost = FlopsCost.count(layers_of(MODELS["vit"](2)[0]), per_token=100, per_pair=7)
    assert cost.decision(torch.tensor([1.0, 10.0])).tolist() == [107.0, 1700.0]
    assert FlopsCost.count([]).decision(torch.tensor([9.0])).item() == 0


class Convolutional(nn.Module):
    """A layer with a matrix product that FLOPs cannot price."""

    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(4, 4)
        self.mix = nn.Conv1d(4, 4, 3)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Convolutional(), "mix \\(Conv1d\\)"),
        (nn.MultiheadAttention(4, 2), "MultiheadAttention"),
        (nn.Sequential(nn.Linear(4, 4)), "0 query projections"),
        (nn.ModuleDict({key: nn.ModuleDict({"query": nn.Linear(4, 4)}) for key in "ab"}), "2 query projections"),
    ],
)
def test_flops_refuse_layers_they_cannot_price(layer, reason):
    with pytest.raises(RltrError, match=reason):
        FlopsCost.count([layer])


@pytest.fixture(scope="module")
def backbone():
    """A tiny wrapped ViT of three equal layers."""
    return Backbone(MODELS["vit"](4)[0])


@pytest.fixture(scope="module")
def measured(backbone):
    """A table measured on it, decisions included."""
    seen = []

    def decide(count):
        seen.append(count)
        torch.randn(4, count, 8).softmax(-1)

    with MadeUp() as machine:
        cost = LatencyCost.measure(backbone, 17, rows=4, decision=decide, points=4, passes=1, clock=clock_of(machine))
    assert set(seen) == {1, 6, 12, 17} and cost.busy is None
    return cost


@pytest.fixture(params=sorted(COST_MODELS))
def cost(request, backbone, measured):
    """Every cost model in turn; a new one is added here."""
    return {"flops": FlopsCost.count(backbone.layers, 10, 2), "latency": measured}[request.param]


def test_every_cost_is_positive_finite_and_never_falls_with_tokens(cost):
    counts = torch.arange(1.0, 18.0)
    for values in [*(cost.layer(layer, counts) for layer in range(3)), cost.decision(counts)]:
        assert values.shape == counts.shape and values.dtype == counts.dtype
        assert values.isfinite().all() and (values > 0).all()
        assert (values.diff() >= -1e-6 * values[1:]).all()


def test_a_whole_native_pass_is_its_layers_and_what_is_outside(cost):
    assert cost.native_pass(17) == pytest.approx(dense(cost, 3, 17) + cost.outside(17))
    if isinstance(cost, LatencyCost):
        dearer = dataclasses.replace(cost, outside_per_token=0.5, native=1.2)
        assert dearer.native_pass(4) == pytest.approx(1.2 * dense(cost, 3, 4) + 2)


def test_spans_add_up(cost):
    counts = torch.tensor([1.0, 5.0, 17.0])
    torch.testing.assert_close(span(cost, 0, 1, counts) + span(cost, 1, 3, counts), span(cost, 0, 3, counts))
    assert span(cost, 2, 2, counts).tolist() == [0, 0, 0]


def test_every_cost_survives_json_by_name(cost):
    text = json.dumps(cost.to_dict())
    assert from_dict(json.loads(text)) == cost


def test_from_dict_refuses_unknown_names_and_broken_content(cost):
    with pytest.raises(RltrError, match="'joules'.*flops, latency"):
        from_dict({"name": "joules"})
    with pytest.raises(RltrError, match="extra"):
        from_dict({**cost.to_dict(), "extra": 1})
    with pytest.raises(RltrError):
        from_dict({"name": cost.name})


@st.composite
def tables(draw):
    """The counts and seconds of any legal table."""
    counts = sorted(draw(st.sets(st.integers(1, 4096), min_size=2, max_size=10)))
    times = st.floats(1e-7, 10, allow_nan=False)
    seconds = sorted(draw(st.lists(times, min_size=len(counts), max_size=len(counts))))
    return tuple(counts), tuple(seconds)


@given(tables())
def test_a_table_reads_back_exactly_what_was_measured(content):
    table = Table(*content)
    assert table(torch.tensor(table.counts, dtype=torch.float64)).tolist() == list(table.seconds)


@given(tables(), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_table_never_falls_and_stays_between_its_ends(content, shares):
    table = Table(*content)
    low, high = table.counts[0], table.counts[-1]
    at = torch.tensor(sorted(shares), dtype=torch.float64) * (high - low) + low
    values = table(at)
    slack = 1e-12 * table.seconds[-1]
    assert (values.diff() >= -slack).all()
    assert values.min() >= table.seconds[0] - slack and values.max() <= table.seconds[-1] + slack


def test_a_table_is_straight_between_its_counts_and_goes_on_behind_the_last():
    table = Table((1, 3, 7), (1.0, 2.0, 10.0))
    assert table(torch.tensor([2.0, 5.0, 6.0])).tolist() == [1.5, 6.0, 8.0]
    assert table(torch.empty(0)).shape == (0,)
    assert table(torch.tensor([8.0, 9.0])).tolist() == [12.0, 14.0]
    with pytest.raises(RltrError, match="begins at 1 tokens"):
        table(torch.tensor([2.0, 0.5]))


@pytest.mark.parametrize(
    ("counts", "seconds"),
    [
        ((1,), (1.0,)),
        ((1, 2), (1.0,)),
        ((2, 1), (1.0, 2.0)),
        ((1, 2), (2.0, 1.0)),
        ((1, 2), (1.0, float("nan"))),
        ((1, 2), (1.0, float("inf"))),
    ],
)
def test_a_senseless_table_is_refused(counts, seconds):
    with pytest.raises(RltrError, match="Measure it again"):
        Table(counts, seconds)


def test_a_table_first_read_in_inference_mode_still_serves_a_loss():
    table, counts = Table((1, 3), (1.0, 2.5)), torch.tensor([2.0], requires_grad=True)
    with torch.inference_mode():
        table(torch.tensor([2.0]))
    (gradient,) = torch.autograd.grad(table(counts).sum(), counts)
    assert gradient.tolist() == [0.75]


def test_layers_of_one_kind_share_one_measurement(backbone, measured):
    assert len(measured.layers) == 3 and len(measured.tables) == 1
    assert layer_kind(nn.Linear(2, 3)) != layer_kind(nn.Linear(3, 2))
    assert measured.machine.threads == torch.get_num_threads() and measured.rows == 4


def test_measuring_leaves_the_model_as_it_was(backbone):
    before = backbone.model.config._attn_implementation
    threads = torch.get_num_threads()
    LatencyCost.measure(backbone, tokens=5, rows=1, points=2, passes=1, threads=1, limit=0.0)
    assert backbone.model.config._attn_implementation == before and torch.get_num_threads() == threads


def test_without_a_measured_decision_it_is_free(measured):
    free = dataclasses.replace(measured, overhead=None)
    assert free.decision(torch.tensor([3.0])).tolist() == [0.0]


def test_a_table_is_used_only_where_it_was_measured(measured, backbone, tmp_path):
    path = tmp_path / "tables" / "latency.json"
    measured.save(path)
    assert LatencyCost.load(path, backbone) == measured
    here = measured.machine
    others = {
        "processor": dataclasses.replace(here, processor="Cray-1"),
        "device": dataclasses.replace(here, device="cuda"),
        "dtype": dataclasses.replace(here, dtype="float16"),
        "threads": dataclasses.replace(here, threads=here.threads + 1),
    }
    for field, machine in others.items():
        dataclasses.replace(measured, machine=machine).save(path)
        # A processor's name has characters that mean something in a pattern: Intel(R).
        there, now = (re.escape(repr(getattr(conditions, field))) for conditions in (machine, here))
        with pytest.raises(RltrError, match=f"{field} {there} there, {now} here.*[Mm]easure again"):
            LatencyCost.load(path, backbone)
    with pytest.raises(RltrError, match="set_num_threads"):
        measured.check(backbone, threads=here.threads + 1)
    # Threads of the host say nothing about a GPU's times, and a newer torch is noted but let pass.
    gpu = Machine("cuda", "A GPU", "550.1", "2.0", "float16", 8)
    gpu.require(dataclasses.replace(gpu, threads=2, torch_version="2.1", driver="560.2"))


def test_the_processor_here_has_a_name(odd_processor):
    assert processor_name(torch.device("cpu")).strip()
    assert Machine.here(torch.device("cpu"), torch.float32).processor == odd_processor


def test_a_table_is_refused_for_another_model(measured):
    other = Backbone(MODELS["dinov2"](4)[0])
    with pytest.raises(RltrError, match="ViTLayer.*there.*Dinov2Layer.*here"):
        measured.check(other)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"name": "flops"}', '{"name": "latency"}'])
def test_a_file_that_is_no_table_is_refused(text, tmp_path, backbone):
    path = tmp_path / "latency.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RltrError, match="latency table|LatencyCost"):
        LatencyCost.load(path, backbone)


def test_saving_is_plain_json_and_leaves_nothing_else(measured, tmp_path):
    path = tmp_path / "latency.json"
    measured.save(path)
    assert json.loads(path.read_text())["name"] == "latency"
    assert [file.name for file in tmp_path.iterdir()] == ["latency.json"]


def test_impossible_measurements_are_refused(backbone):
    for tokens, rows in [(1, 4), (8, 0)]:
        with pytest.raises(RltrError, match="at least 2 tokens and 1 row"):
            LatencyCost.measure(backbone, tokens, rows)
