"""The search of a probe: on made-up trade-offs whose best start is known, and on tiny models."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rltr.cost import FlopsCost
from rltr.dense import DenseAnswers
from rltr.policies.network import PolicyConfig, decision_flops
from rltr.probe import Rule, Start, TradeOff, Trials, probe
from rltr.runtime.backbone import Backbone
from tests.envs.conftest import image_model, images, text_model, texts

MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "image": (image_model, images), "text": (text_model, texts),
}  # fmt: skip


class MadeUp(Trials):
    """Trials in which the loss of a start is a formula."""

    def __init__(self, loss: Callable[[Start], float], depth: int = 6) -> None:
        self.backbone = SimpleNamespace(depth=depth)  # type: ignore[assignment] # nothing else of it is read
        self.index = torch.arange(200)
        self.passes = 0
        self.loss = loss

    def of_start(self, start: Start, inputs: int) -> TradeOff:
        return TradeOff((0.8, 0.5, 0.2), tuple(self.loss(start) * part for part in (0.1, 0.3, 1.0)))

    def of_rule(self, rule: Rule, inputs: int) -> TradeOff:
        return TradeOff((0.8, 0.5, 0.2), (0.3, 1.0, 3.0))


@pytest.fixture(autouse=True)
def rules_need_no_backbone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "kind" not in request.fixturenames:
        monkeypatch.setattr("rltr.probe.search._rules", lambda backbone, best: [Rule("random", best.layers, "merge")])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param(lambda start: 2 + start.attention / 8, {"attention": -8.0}, id="attention misleads"),
        pytest.param(lambda start: 2 + start.redundancy / 4, {"redundancy": -4.0}, id="redundancy misleads"),
        pytest.param(
            lambda start: 1.5 - 0.5 * (start.redundancy > 0) + abs(start.attention) / 8,
            {"redundancy": 4.0, "attention": 0.0},
            id="attention says nothing",
        ),
        pytest.param(
            lambda start: 2 - (start.attention > 0) + 0.5 * (start.removal == "merge"), {"removal": "drop"}, id="drop"
        ),
        pytest.param(
            lambda start: 2 - (start.attention > 0) + 0.1 * abs(start.layers[0] - 2) + 0.1 * len(start.layers),
            {"layers": (2,)},
            id="layers",
        ),
    ],
)
def test_the_search_finds_what_helps(loss: Callable[[Start], float], expected: dict[str, Any]) -> None:
    best = probe(MadeUp(lambda start: max(loss(start), 0.2))).best.candidate
    for name, value in expected.items():
        found = getattr(best, name)
        assert (found == value) if not isinstance(value, float) or value == 0 else (found * value > 0), best


def trials(kind: str, **options: Any) -> Trials:
    model, examples = (make() for make in MODELS[kind])
    backbone = Backbone(model)
    cost = FlopsCost.count(backbone.layers, *decision_flops(PolicyConfig(backbone.width, backbone.depth, 17)))
    return Trials(DenseAnswers(backbone, examples), cost, **options)


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_probe_of_a_tiny_model_is_json_and_tables(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltr.probe.trials.PILOT_WEIGHTS", (0.01, 1.0, 100.0))
    monkeypatch.setattr("rltr.probe.trials.COSTS", (0.7, 0.4))
    found = probe(trials(kind, inputs=4))
    assert json.loads(json.dumps(found.to_dict()))["start"]["layers"] == list(found.best.candidate.layers)
    assert found.passes > 0 and found.best.inputs == 4
    assert len({one.candidate for one in found.starts}) == len(found.starts)
    assert found.best.value <= min(one.value for one in found.starts if one.inputs == 4) + 0.02
    assert [table.title for table in found.tables()] == ["Starts of a training", "Rules", "Loss of score"]


@pytest.mark.parametrize("kind", list(MODELS))
def test_measurements_are_repeatable(kind: str) -> None:
    start, rule = Start((1, 2), "merge", 4.0, 8.0), Rule("random", (1, 2), "drop")
    first, second = ((runs.of_start(start, 4), runs.of_rule(rule, 4)) for runs in (trials(kind), trials(kind)))
    assert first == second and len(first[1].costs) > 1


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_model_is_native_after_a_probe_and_nobodys_random_numbers_change(kind: str) -> None:
    runs = trials(kind, inputs=4)
    before = {name: value.clone() for name, value in runs.backbone.model.state_dict().items()}
    state = torch.random.get_rng_state()
    runs.of_start(Start((1, 2), "merge", 4.0, 8.0), 4)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in runs.backbone.model.state_dict().items())
    assert "forward" not in vars(runs.backbone.base)


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_start_that_keeps_everything_loses_nothing(kind: str) -> None:
    runs = trials(kind, inputs=4)
    curve = runs.of_start(Start((1, 2), "merge"), 4)
    whole = [loss for cost, loss in zip(curve.costs, curve.losses, strict=True) if cost >= 0.99]
    assert all(abs(loss) < 1e-5 for loss in whole)
    assert all(low <= high + 1e-9 for high, low in zip(curve.costs, curve.costs[1:], strict=False))


def test_the_sample_has_each_input_once_and_at_most_all() -> None:
    assert sorted(trials("text", inputs=100).index.tolist()) == list(range(8))
    assert len(set(trials("text", inputs=5, seed=3).index.tolist())) == 5
    assert trials("text", inputs=8, seed=1).index.tolist() != trials("text", inputs=8, seed=2).index.tolist()
