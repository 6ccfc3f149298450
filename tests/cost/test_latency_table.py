"""Latency tables read back what they hold, and are used only where they were measured."""

import dataclasses
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rltr.cost import LatencyCost, Machine
from rltr.cost.latency import layer_kind
from rltr.cost.table import Table
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.system.machine import processor_name
from tests.cost.conftest import MODELS


@st.composite
def tables(draw):
    """Counts and seconds of a random valid table."""
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


def test_a_table_is_interpolated_and_extrapolated_linearly():
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
def test_an_invalid_table_is_refused(counts, seconds):
    with pytest.raises(RltrError, match="Measure it again"):
        Table(counts, seconds)


def test_a_table_first_read_in_inference_mode_can_be_used_in_a_loss():
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


def test_decisions_that_were_not_measured_are_free(measured):
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
        # Names of processors have characters that are special in patterns, for example Intel(R).
        there, now = (re.escape(repr(getattr(conditions, field))) for conditions in (machine, here))
        with pytest.raises(RltrError, match=f"{field} {there} there, {now} here.*[Mm]easure again"):
            LatencyCost.load(path, backbone)
    with pytest.raises(RltrError, match="set_num_threads"):
        measured.check(backbone, threads=here.threads + 1)
    # Threads of the host say nothing about a GPU's times, and a table of another torch is used with a message.
    gpu = Machine("cuda", "A GPU", "550.1", "2.0", "float16", 8)
    gpu.require(dataclasses.replace(gpu, threads=2, torch_version="2.1", driver="560.2"))


def test_the_processor_of_this_machine_is_stored(odd_processor_name):
    assert processor_name(torch.device("cpu")).strip()
    assert Machine.here(torch.device("cpu"), torch.float32).processor == odd_processor_name


def test_a_table_is_refused_for_another_model(measured):
    other = Backbone(MODELS["dinov2"](4)[0])
    with pytest.raises(RltrError, match="ViTLayer.*there.*Dinov2Layer.*here"):
        measured.check(other)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"name": "flops"}', '{"name": "latency"}'])
def test_a_file_without_a_table_is_refused(text, tmp_path, backbone):
    path = tmp_path / "latency.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RltrError, match="latency table|LatencyCost"):
        LatencyCost.load(path, backbone)


def test_a_table_is_saved_as_one_json_file(measured, tmp_path):
    path = tmp_path / "latency.json"
    measured.save(path)
    assert json.loads(path.read_text())["name"] == "latency"
    assert [file.name for file in tmp_path.iterdir()] == ["latency.json"]


def test_impossible_measurements_are_refused(backbone):
    for tokens, rows in [(1, 4), (8, 0)]:
        with pytest.raises(RltrError, match="at least 2 tokens and 1 row"):
            LatencyCost.measure(backbone, tokens, rows)
