"""What is measured or computed once is used again; checking."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from rltr.check import parity
from rltr.cost import COST_MODELS, FlopsCost, LatencyCost
from rltr.cost.passes import Fit
from rltr.cost.scaling import predict
from rltr.dense import DenseAnswers
from rltr.deploy import load_policy
from rltr.errors import RltrError
from rltr.jobs.check import run_check
from rltr.jobs.training import run_train
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.recipe import load_recipe
from rltr.recipe.learning import CostGroup
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal
from rltr.runtime.departure import remove_tokens
from rltr.runtime.forward import Forward
from rltr.runtime.redundancy import Redundancy
from rltr.selectors import RandomChoice
from rltr.system.folders import CHECKPOINT, LATENCY_FILE, POLICY_FOLDER
from rltr.tasks.models import load_model
from rltr.train import cost_model
from rltr.train.checkpoint import TENSORS
from rltr.train.cost_model import CostInputs, make_cost, measured_cost
from rltr.train.decision_work import decision_work
from rltr.train.trusted_prices import BusyMachine, UnreliablePrices, advice_in_training, trust
from tests.clocks import Machine as MadeUp
from tests.clocks import another_process, bursts, clock_of, jitter
from tests.jobs.conftest import recipe


@pytest.fixture
def priced(folder: Path) -> CostInputs:
    """The tiny model of images, and a batch of four."""
    backbone = Backbone(load_model(str(folder / "vit")))
    batch = {"pixel_values": torch.randn(4, 3, 16, 16)}
    one = {"pixel_values": torch.randn(1, 3, 16, 16)}
    return CostInputs(backbone, PolicyConfig(backbone.width, backbone.depth, 17), (0, 2), "merge", one, batch)


@pytest.mark.usefixtures("made_up_machine")
def test_a_run_is_repeated_with_its_prices(
    folder: Path, tmp_path: Path, new_log: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    first = run_train(recipe(folder, tmp_path / "first", **{"cost.kind": "latency"})).folder
    table = {"cost.kind": "latency", "cost.table": first / LATENCY_FILE}
    second = run_train(recipe(folder, tmp_path / "second", **table)).folder
    policies = [load_policy(path / POLICY_FOLDER) for path in (first, second)]
    assert policies[0].cost == policies[1].cost
    assert policies[0].calibration == policies[1].calibration
    assert (first / LATENCY_FILE).read_bytes() == (second / LATENCY_FILE).read_bytes()
    assert len(re.findall(r"prices: error of the predicted time [a-z :]* median \d+%, largest \d+%", new_log())) == 2
    assert "busy" not in caplog.text and "FLOPs are counted" not in caplog.text
    run_train(recipe(folder, tmp_path / "other", **{**table, "cost.batch_size": 9}))
    assert "cost.batch_size=9 is not used" in caplog.text and "measured with batches of 4" in caplog.text
    content = json.loads((first / LATENCY_FILE).read_text())
    assert content["fit"]["measured"] and content["busy"] is None
    for curve in content["tables"].values():
        curve["longest"] -= 1
    (tmp_path / "short.json").write_text(json.dumps(content))
    with pytest.raises(RltrError, match="longer inputs than it was measured for"):
        run_train(recipe(folder, tmp_path / "third", **{**table, "cost.table": tmp_path / "short.json"}))
    assert not (tmp_path / "third").exists()
    with pytest.raises(RltrError, match="threads 1 there, 2 here.*--threads 1"):
        run_train(recipe(folder, first, **{"cost.kind": "latency", "threads": 2}), resume=True)


def flat(content: dict[str, Any]) -> None:
    """Prices by which a token costs nothing, as a table measured under load had them."""
    for curve in content["tables"].values():
        curve["fixed"] += curve["linear"] * curve["longest"]
        curve["linear"] = curve["quadratic"] = 0.0


@pytest.mark.usefixtures("made_up_machine")
def test_prices_that_do_not_hold_are_not_trained_on(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    latency = {"cost.kind": "latency"}
    first = run_train(recipe(folder, tmp_path / "first", **latency)).folder
    content = json.loads((first / LATENCY_FILE).read_text())
    flat(content)
    (tmp_path / "flat.json").write_text(json.dumps(content))
    spoiled = {**latency, "cost.table": tmp_path / "flat.json"}
    found = r"do not hold for whole passes: .* of the native time .*Leave cost\.table out.*cost\.when_busy=flops"
    with pytest.raises(RltrError, match=found) as refused:
        run_train(recipe(folder, tmp_path / "second", **spoiled))
    assert "begin again" not in str(refused.value)  # which would read the same table
    assert not (tmp_path / "second").exists() and "FLOPs are counted" not in caplog.text
    second = run_train(recipe(folder, tmp_path / "second", **spoiled, **{"cost.when_busy": "flops"})).folder
    assert "FLOPs are counted instead, as cost.when_busy says" in caplog.text
    assert "set cost." not in caplog.text and "cost.when_busy=" not in caplog.text  # that is what they did
    policy = load_policy(second / POLICY_FOLDER)
    assert isinstance(policy.cost, FlopsCost) and not (second / LATENCY_FILE).exists()
    assert all(point.time is None for point in policy.calibration)


def test_a_busy_machine_is_told(priced: CostInputs, caplog: pytest.LogCaptureFixture) -> None:
    """Prices that hold are used all the same; prices that do not are refused with what was seen of the machine."""
    wanted = CostGroup(kind="latency", batch_size=4)
    with MadeUp() as machine:
        cost = make_cost(priced, wanted, clock_of(machine, load=7.0))
    assert isinstance(cost, LatencyCost) and cost.fit is not None and cost.fit.worst_error <= 0.15
    assert "this machine is busy: " in caplog.text and "the load average is 7.0 on 2 processors" in caplog.text
    spoiled = replace(cost, fit=Fit((0.6, 0.4), (0.18, 0.4)))
    with pytest.raises(RltrError, match=r"0\.60 .* predicted to take 0\.18.*machine is busy: .*load average is 7\.0"):
        trust(spoiled)
    with pytest.raises(RltrError, match="something else used the machine for a while, or the processor changed its"):
        trust(replace(spoiled, busy=None))


@pytest.mark.parametrize("stored", [False, True], ids=["measured", "stored"])
@pytest.mark.parametrize(
    ("slowness", "trained"),
    [
        (lambda now: 1.0, True),
        (lambda now: 2.0, True),  # a slower machine
        (jitter, True),
        (another_process, False),
    ],
    ids=["quiet", "slow", "virtual", "another process"],
)
def test_a_busy_machine_is_not_trained_on(
    priced: CostInputs,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    slowness: Callable[[float], float],
    trained: bool,
    stored: bool,
) -> None:
    """What counts is how far repeats of the same work are apart, not how long they take."""
    table = tmp_path / "latency.json" if stored else None
    if table is not None:
        with MadeUp() as machine:
            measured_cost(priced, 4, clock_of(machine)).save(table)
    wanted = CostGroup(kind="latency", batch_size=4, table=table)
    with MadeUp(slowness) as machine:
        if trained:
            assert isinstance(make_cost(priced, wanted, clock_of(machine)), LatencyCost)
            assert "busy" not in caplog.text
            return
        found = r"^this machine is busy: a quarter of the repeats .* at least \d+% longer .*\(bound: 50%\)$"
        with pytest.raises(BusyMachine, match=found):
            make_cost(priced, wanted, clock_of(machine))
        assert "FLOPs" not in caplog.text
        counted = make_cost(priced, wanted.model_copy(update={"when_busy": "flops"}), clock_of(machine))
    assert isinstance(counted, FlopsCost)
    assert re.search(r"this machine is busy: .* FLOPs are counted instead, as cost\.when_busy says", caplog.text)


def test_a_busy_machine_ends_a_training_before_it_writes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MadeUp(another_process) as machine:
        monkeypatch.setattr("rltr.train.run.make_cost", lambda *args: make_cost(*args, clock_of(machine)))
        found = r"^this machine is busy: .*Stop what else runs on this machine, or wait.*cost\.when_busy=flops"
        with pytest.raises(RltrError, match=found) as refused:
            run_train(recipe(folder, tmp_path / "run", **{"cost.kind": "latency"}))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_who_asked_for_prices_is_told_what_to_do(priced: CostInputs) -> None:
    """What was found says nothing of it: what helps in a training is no use to a calibration."""
    with MadeUp() as machine:
        cost = make_cost(priced, CostGroup(kind="latency", batch_size=4), clock_of(machine))
    assert isinstance(cost, LatencyCost)
    for busy in (None, "the load average is 7.0 on 2 processors"):
        with pytest.raises(UnreliablePrices) as found:
            trust(replace(cost, fit=Fit((0.6,), (0.9,)), busy=busy))
        assert not re.search(r"cost\.|set |again|[Ss]top", str(found.value))
    with pytest.raises(BusyMachine) as found:
        trust(replace(cost, disagreement=1.0, busy="a quarter took twice as long"))
    assert not re.search(r"cost\.|set |again|[Ss]top", str(found.value))
    measured, stored = (CostGroup(kind="latency", table=table) for table in (None, Path("latency.json")))
    for reason, again in (
        (UnreliablePrices("prices do not hold"), "Leave cost.table out to measure anew"),
        (BusyMachine("busy"), "Stop"),
    ):
        assert "Stop what else runs on this machine, or wait, and begin again" in advice_in_training(measured, reason)
        assert advice_in_training(stored, reason).startswith(again)


@pytest.mark.parametrize("removal", get_args(Removal))
def test_a_timed_decision_does_what_a_forward_pass_does(
    priced: CostInputs, removal: Removal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each removed token gets a representative in either mode, and the search for it is timed."""
    given: list[tuple[Decision, torch.Tensor]] = []
    searched: list[torch.Tensor] = []
    partners = Redundancy.partners

    def watched(decision: Decision, kept: torch.Tensor, into: None, mode: Removal) -> Any:
        given.append((decision, kept))
        return remove_tokens(decision, kept, into, mode)

    def counted(self: Redundancy, kept: torch.Tensor) -> Any:
        searched.append(kept)
        return partners(self, kept)

    monkeypatch.setattr("rltr.train.decision_work.remove_tokens", watched)
    monkeypatch.setattr(Redundancy, "partners", counted)
    timed: Any = decision_work(priced.backbone, TokenPolicy(priced.policy), 4, removal)(17)
    ((decision, kept),) = given
    forward = Forward(priced.backbone, lambda _: Choice(kept), [0], removal)
    hidden = forward.before_layer(decision.hidden.view(4, 17, -1), None)
    assert len(searched) == 2 and all(torch.equal(kept, chosen) for chosen in searched)
    assert torch.equal(timed.hidden, hidden.flatten(0, 1))
    assert timed.tokens.counts == forward.stages[-1].counts
    assert torch.equal(timed.representative, forward._representative) and len(timed.kept) == int(kept.sum())


def test_prices_are_measured_twice_before_they_are_refused(priced: CostInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    with MadeUp() as machine:
        good = make_cost(priced, CostGroup(kind="latency", batch_size=4), clock_of(machine))
    assert isinstance(good, LatencyCost)
    bad = replace(good, fit=Fit((0.6,), (0.9,)))
    found = iter([bad, good, bad, bad])
    monkeypatch.setattr(cost_model, "measured_cost", lambda *_: next(found))
    assert make_cost(priced, CostGroup(kind="latency")) is good
    with pytest.raises(RltrError, match="do not hold"):
        make_cost(priced, CostGroup(kind="latency"))


def test_what_else_runs_moves_no_price(priced: CostInputs) -> None:
    # Enough inputs that numbers take the time, not calls: a pass of the tiny model is next to nothing else.
    priced, costs = replace(priced, batch={"pixel_values": torch.randn(32, 3, 16, 16)}), []
    for slowness in (lambda now: 1.0, bursts):
        with MadeUp(slowness) as machine:
            costs.append(measured_cost(priced, 32, clock_of(machine)))
    for left in (3, 9, 15):
        counts, seen = torch.tensor([[17], [17], [left], [left]]), torch.tensor([[17], [17]])
        quiet, loud = (predict(cost, counts, seen, 17) for cost in costs)
        assert loud == pytest.approx(quiet, rel=0.15)


def test_dense_logits_are_paid_for_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    compute = DenseAnswers._compute

    def counted(self: DenseAnswers, part: torch.Tensor) -> torch.Tensor:
        computed.append(len(part))
        return compute(self, part)

    monkeypatch.setattr(DenseAnswers, "_compute", counted)
    monkeypatch.setenv("RLTR_CACHE", str(tmp_path / "cache"))
    off = {"data.cache_megabytes": 0}
    run_train(recipe(folder, tmp_path / "off", **off))
    assert computed and not (tmp_path / "cache").exists()
    computed.clear()
    runs = [run_train(recipe(folder, tmp_path / name)).folder for name in ("first", "second")]
    paid = len(computed)
    assert paid == len(set(load_file(runs[0] / CHECKPOINT / TENSORS)["dense.known"].nonzero().flatten().tolist()))
    first, second = (load_file(run / POLICY_FOLDER / "policy.safetensors") for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", COST_MODELS)
def test_every_cost_model_can_be_made_by_a_recipe(name: str, priced: CostInputs) -> None:
    wanted = load_recipe(None, (), {"cost.kind": name, "cost.batch_size": 4}).cost
    with MadeUp() as machine:
        made = make_cost(priced, wanted, clock_of(machine))
    assert type(made) is COST_MODELS[name] and made.depth == priced.backbone.depth


def test_checking_needs_no_data(
    folder: Path, trained: Path, tmp_path: Path, new_log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run_train(recipe(folder, tmp_path / "text", "text")).folder
    for run, source, where in ((trained, "some/photos", "is loaded only if named"), (text, "gone", "is missing")):
        policy = shutil.copytree(run / POLICY_FOLDER, tmp_path / f"{run.name} policy")
        config = json.loads((policy / "config.json").read_text())
        config["recipe"]["data"]["source"] = source
        (policy / "config.json").write_text(json.dumps(config))
        assert run_check(policy)
        said = new_log()
        assert (
            f"'{source}'" in said
            and f"{where}: checking on random inputs" in said
            and "cost weight" in said
            and "accuracy" not in (said.partition("cost weight")[2])
        )
        with pytest.raises(RltrError, match="there is no data"):
            run_check(policy, {"data.source": "nowhere"})
    assert run_check(policy, {"data.source": str(folder / "reviews.csv"), "threads": 1})
    assert "accuracy" in new_log().partition("cost weight")[2]


def test_checking_finds_a_model_that_answers_otherwise(
    trained: Path, new_log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def drops(*_: Any) -> Any:
        return RandomChoice(0.5)

    monkeypatch.setattr(parity, "KeepAll", drops)
    assert not run_check(trained / POLICY_FOLDER)
    assert "cost weight" not in new_log()


def test_a_policys_recipe_of_another_version_is_a_clear_line(trained: Path, tmp_path: Path) -> None:
    policy = shutil.copytree(trained / POLICY_FOLDER, tmp_path / "policy")
    config = json.loads((policy / "config.json").read_text())
    config["recipe"]["policy"]["prior"] = 4.0
    (policy / "config.json").write_text(json.dumps(config))
    with pytest.raises(RltrError, match="unknown key 'policy.prior'.*another version wrote it"):
        run_check(policy)
