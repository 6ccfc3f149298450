"""``benchmarks.gpu`` in small: on the CPU, and on a device that says it is another."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.attention.gpu_kernels import as_on_a_gpu
from tests.pretended_gpu import DEVICE, pretended_gpu

Benchmark = Callable[[str], ModuleType]
PARTS = ["kernels", "proofs", "training", "native", "attach overhead", "speed-up", "decisions", "prices"]


@pytest.fixture
def smallest(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The whole benchmark with one setting of each kind, and without what takes long to measure well."""
    parts, main = benchmark("gpu.parts"), benchmark("gpu.__main__")
    monkeypatch.setattr(parts, "SHARES", (0.5,))
    monkeypatch.setattr(parts, "COSTS", (1.0, 0.5))
    monkeypatch.setattr(parts, "PRICED", (0.5,))
    monkeypatch.setattr(main, "BACKENDS", ("sdpa-padded", "varlen"))
    monkeypatch.setattr(main.kernels, "BACKENDS", ("sdpa-per-row", "sdpa-padded", "varlen"))
    for name, value in (("VISIT", 0.0), ("SHORT", 0.0), ("AGREEMENT", math.inf)):
        monkeypatch.setattr(f"rltr.cost.rounds.{name}", value)
    monkeypatch.setattr("rltr.train.whole_passes.PRECISION", math.inf)
    return main


def numbers(value: Any) -> Iterator[float]:
    """All of them in a JSON file."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, (int, float)):
        yield value


def test_everything_in_small_is_one_file_of_finite_numbers(
    benchmark: Benchmark, smallest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--small", "--rounds", "1", "--batch", "2", "--threads", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["gpu", *options])
    assert smallest.main() == 0
    found = json.loads(out.read_text())
    assert found["benchmark"] == "gpu" and found["failed"] == [] and list(found["parts"]) == PARTS
    assert all(rows and len({tuple(row) for row in rows}) == 1 for rows in found["parts"].values()), "same columns"
    assert all(row["case"] for rows in found["parts"].values() for row in rows)
    assert all(map(math.isfinite, numbers(found)))
    assert {"device", "processor", "torch", "transformers", "dtype", "flash-attn"} <= found["environment"].keys()
    named = {(one["part"], one["unit"].split(",")[0]): one["reason"] for one in found["left_out"]}
    assert named.keys() == {("kernels", "varlen"), ("memory", "small ViT"), ("memory", "small BERT")}
    assert "needs a CUDA device" in named["kernels", "varlen"]
    # Every figure that benchmarks.compare looks for is there, but for what a CPU cannot tell.
    for part, (layout, rows) in benchmark("changes").read(out).tables.items():
        assert {*layout.key, *(figure.column for figure in layout.figures)} <= rows[0].keys(), part


def test_the_same_runs_where_tensors_are_on_another_device(benchmark: Benchmark, smallest: ModuleType) -> None:
    """Nothing is compared with a tensor that was left on the CPU, memory is counted, and a training learns there."""
    cases, parts, journal = (
        benchmark("gpu.cases"),
        benchmark("gpu.parts"),
        benchmark("gpu.journal").Journal({}, None, 600),
    )
    with pretended_gpu():
        smallest.prove_kernels(journal, DEVICE, small=True)
        models = cases.Models.on(DEVICE, torch.float32, small=True)
        for case in models.cases([2], []):
            assert all(tensor.device == DEVICE for tensor in case.inputs.values())
            smallest.measure_case(journal, case, rounds=1)
        journal.run("proofs", "images", 0, lambda: parts.check_exact(models.images, "sdpa-padded", 2, 8))
        train = benchmark("gpu.training").train
        journal.run("training", "embedded", 0, lambda: train(DEVICE, 1, 4, 8, seconds=0))
    assert journal.failed == [] and all(journal.parts.values())
    assert {row["pass"] for row in journal.parts["memory"]} == {"native", "everything kept", "50% merged"}
    assert journal.parts["proofs"][0]["met"] and journal.parts["training"][0]["updates"] == 1


@pytest.mark.parametrize("wrong", [False, True])
def test_a_kernel_that_runs_is_held_against_sdpa(benchmark: Benchmark, wrong: bool) -> None:
    kernels = benchmark("gpu.kernels")
    with as_on_a_gpu("varlen", "flash"), pytest.MonkeyPatch.context() as patch:
        if wrong:  # the last token of every batch
            right = kernels.packed.varlen
            patch.setattr(kernels.packed, "varlen", lambda *args: torch.cat([right(*args)[:-1], args[2][-1:]]))
        rows = kernels.measure(torch.device("cpu"), torch.bfloat16, kernels.shape(small=True))
    ran = {row["backend"]: row["ran"] for row in rows}
    assert ran["varlen"] == "varlen" and ran["flash"] == "flash" and ran["sdpa-padded"] == "sdpa"
    missed = {row["backend"] for row in rows if not row["met"]}
    assert missed == ({"varlen"} if wrong else set())


def test_a_kernel_that_was_asked_for_and_did_not_run_is_not_exact(benchmark: Benchmark) -> None:
    kernels = benchmark("gpu.kernels")
    with as_on_a_gpu("varlen", "flash"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.packed, "supports", lambda *args, **kwargs: False)  # so both are padded
        rows = kernels.measure(torch.device("cpu"), torch.bfloat16, kernels.shape(small=True))
    assert {row["backend"] for row in rows if not row["met"]} == {"varlen", "flash"}


def test_what_fails_or_does_not_fit_is_named_and_the_rest_is_kept(benchmark: Benchmark, tmp_path: Path) -> None:
    now = iter(range(0, 1000, 10))
    out = tmp_path / "found.json"
    journal = benchmark("gpu.journal").Journal({"benchmark": "gpu"}, out, limit=75, clock=lambda: float(next(now)))

    def fails() -> Any:
        raise ValueError("no such kernel")

    def too_large() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    assert journal.run("speed-up", "first", 60, lambda: [{"ratio": 1.0}]) == [{"case": "first", "ratio": 1.0}]
    assert json.loads(out.read_text())["parts"] == {"speed-up": [{"case": "first", "ratio": 1.0}]}, "after every unit"
    assert journal.run("speed-up", "fails", 0, fails) == []
    assert journal.run("speed-up", "large", 0, too_large) == []
    assert journal.run("speed-up", "long", 60, fails) == []
    found = json.loads(out.read_text())
    assert found["failed"] == [{"part": "speed-up", "unit": "fails", "error": "ValueError: no such kernel"}]
    large, long = journal.left_out
    assert large["reason"] == "out of memory: CUDA out of memory."
    assert long["reason"].startswith("it would take about 60 s, and ")
    assert found["parts"] == {"speed-up": [{"case": "first", "ratio": 1.0}]}
