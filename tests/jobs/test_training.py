"""Training, exporting, evaluating and checking, end to end, on a user's own tiny model and data."""

import io
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

import rltr
from rltr.cost import FlopsCost, LatencyCost
from rltr.deploy import load_policy
from rltr.envs import default_layers
from rltr.errors import RltrError
from rltr.jobs import training as jobs
from rltr.jobs.check import run_check
from rltr.jobs.demo import facts_of
from rltr.jobs.evaluation import history_of, run_evaluate
from rltr.jobs.export import run_export
from rltr.jobs.training import run_train
from rltr.policies.observation import TOKEN_FEATURES
from rltr.recipe import Recipe
from rltr.system.folders import CHECKPOINT, EVALUATION_FILE, LOGS, POLICY_FOLDER, RECIPE_FILE
from rltr.tasks.models import load_model
from rltr.train import run as training
from rltr.train.token_ppo import TokenPPO
from tests.jobs.conftest import CLASSES, SMALL, names, recipe


def test_training_on_images(folder: Path, trained: Path) -> None:
    assert names(trained) == {RECIPE_FILE, LOGS, CHECKPOINT, POLICY_FOLDER}
    policy = load_policy(trained / POLICY_FOLDER)
    assert policy.layers == default_layers(4) and isinstance(policy.cost, FlopsCost)
    assert policy.network.config.width == 8 and policy.network.config.grid == 17
    assert len(policy.calibration) == training.CALIBRATED_WEIGHTS
    low, high = recipe(folder, trained).learner.cost_weight
    weights = [point.cost_weight for point in policy.calibration]
    assert [min(weights), max(weights)] == pytest.approx([low / training.GENTLER, high]) and weights == sorted(weights)
    assert Recipe.model_validate(policy.recipe) == recipe(folder, trained)
    assert not [path for path in trained.rglob("*") if path.suffix in {".pkl", ".pt", ".pth", ".bin", ".zip"}]


def test_every_setting_of_a_learner_reaches_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    made: list[TokenPPO] = []

    def watched(*args: Any, **options: Any) -> TokenPPO:
        made.append(TokenPPO(*args, **options))
        raise Enough

    monkeypatch.setattr(training, "TokenPPO", watched)
    learner: dict[str, Any] = {
        "learning_rate": 0.004,
        "final_learning_rate": 0.25,
        "batch": 12,
        "group_size": 3,
        "epochs": 7,
        "clip_range": 0.3,
        "target_kl": 0.5,
        "entropy": 0.125,
        "max_grad_norm": 2.0,
        "cost_weight": (0.5, 0.75),
        "seed": 41,
    }
    policy: dict[str, Any] = {"width": 16, "keep": 0.5, "redundancy_prior": 1.0, "attention_prior": 2.0}
    settings = {f"learner.{name}": value for name, value in learner.items()}
    settings |= {f"policy.{name}": value for name, value in policy.items()}
    with pytest.raises(Enough):
        run_train(recipe(folder, tmp_path / "run", **settings))
    (ppo,) = made
    schedules: Any = (ppo.lr_schedule, ppo.clip_range)
    rate, clip = schedules
    assert [rate(1), rate(0), clip(1)] == pytest.approx([0.004, 0.001, 0.3])
    assert (ppo.n_epochs, ppo.target_kl, ppo.ent_coef, ppo.max_grad_norm, ppo.seed) == (7, 0.5, 0.125, 2.0, 41)
    episodes, config = ppo.episodes, ppo.policy.token_config
    assert (episodes.rows, episodes.group_size, episodes.weights) == (12, 3, (0.5, 0.75))
    assert (config.width, config.initial_logit, config.redundancy_prior, config.attention_prior) == (16, 0.0, 1.0, 2.0)


def test_the_trained_policy_attaches(folder: Path, trained: Path) -> None:
    model = load_model(str(folder / "vit"))
    policy = load_policy(trained / POLICY_FOLDER)
    middle = sorted(point.cost for point in policy.calibration)[6]
    with rltr.attach(model, trained / POLICY_FOLDER, budget=middle), torch.no_grad():
        assert model(pixel_values=torch.randn(2, 3, 16, 16)).logits.shape == (2, 2)


def test_the_history_is_what_was_logged(trained: Path) -> None:
    history = history_of(trained)
    assert [row["rollouts"] for row in history] == [8, 16]
    for row in history:
        first = f"keep_rate/{default_layers(4)[0]}"
        assert {"accuracy", "dense_accuracy", "cost", "score", "price", first} <= row.keys()
        assert 0 <= row["accuracy"] <= 1 and 0 < row["cost"] < 1.5 and 0 < row[first] <= 1
    assert "kl_per_token" in history[-1] and "clip_fraction" in history[-1]
    assert any(path.name.startswith("events.out.tfevents") for path in (trained / LOGS / "0").iterdir())


def test_exporting_copies_the_policy(trained: Path, tmp_path: Path) -> None:
    run_export(trained, tmp_path / "mine")
    assert names(tmp_path / "mine") == names(trained / POLICY_FOLDER)
    weights = [load_policy(path).network.state_dict() for path in (trained / POLICY_FOLDER, tmp_path / "mine")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    with pytest.raises(RltrError, match="not finished.*--resume"):
        run_export(tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_evaluating_measures_and_reports(folder: Path, trained: Path, tmp_path: Path) -> None:
    wanted = recipe(folder, tmp_path / "measured", **{"evaluation.gallery": 6})
    evaluation = run_evaluate(trained / POLICY_FOLDER, wanted)
    methods = [(point.method, point.setting) for point in evaluation.points]
    assert methods[:2] == [("policy", 0.05), ("policy", 2.0)] and ("none", 1.0) in methods
    assert {"results.json", "report.html", "training.png", EVALUATION_FILE} <= names(tmp_path / "measured")
    json.loads((tmp_path / "measured" / "results.json").read_text())
    facts = facts_of(evaluation)
    assert [row["cost weight"] for row in facts["table"]] == ["0.05", "2"] and facts["environment"]
    # The analytic cost of the policy is the cost that its calibration and its rewards go by.
    policy = load_policy(trained / POLICY_FOLDER)
    assert evaluation.examples == len(evaluation.gallery) == 6 and isinstance(policy.cost, FlopsCost)
    flops = {(point.method, point.setting): point.flops for point in evaluation.points}
    for weight in (0.05, 2.0):
        views = [view for shown in evaluation.gallery for view in shown.views if view.setting == weight]
        stages = torch.tensor([[stage.count("1") for stage in view.present] for view in views]).T
        by_hand = sum(flops_by_hand(counts) for counts in stages.T.tolist()) / (6 * flops_by_hand([17]))
        assert flops["policy", weight] == pytest.approx(by_hand, rel=1e-6)
        paid = float(policy.pricing.total(list(stages)).mean() / policy.pricing.typical_cost)
        assert flops["policy", weight] == pytest.approx(paid, rel=1e-5)
    assert flops["none", 1.0] == 1
    assert flops["random", 0.5] == pytest.approx(flops_by_hand([17, 9], policy=False) / flops_by_hand([17]))


def flops_by_hand(counts: list[int], policy: bool = True) -> int:
    """What 4 layers of width 16 take for 17 tokens, or for fewer, with a decision before the first (of width 8).

    Whoever decides, a quarter of all pairs is compared: some token must stand for each that leaves.
    """
    tokens = counts[-1]
    # Four maps of 16 to 16 and two between 16 and 32, two FLOPs each; then queries by keys and weights by values.
    layers = 4 * (tokens * 2 * (4 * 16 * 16 + 2 * 16 * 32) + tokens**2 * 2 * 2 * 16)
    if len(counts) == 1:
        return layers
    layers += counts[0] ** 2 * 2 * 16 // 4
    # Hidden states and TOKEN_FEATURES numbers to 8, 8 to 8, 8 to 1, and the pooled token's attention.
    return layers + (counts[0] * 2 * (8 * (16 + TOKEN_FEATURES + 8 + 1) + 16) if policy else 0)


def test_checking_compares_with_the_native_model(folder: Path, trained: Path, new_log: Callable[[], str]) -> None:
    assert run_check(trained / POLICY_FOLDER)
    said = new_log()
    assert "after detaching: identical" in said and said.count("cost weight") >= 4
    assert said.count("lost at most, by its calibration: ") == said.count("90% sure") == said.count("cost weight")
    with pytest.raises(RltrError, match="fingerprint"):
        other = folder / "other"
        torch.manual_seed(5)
        model = ViTForImageClassification(ViTConfig(**SMALL, **CLASSES, image_size=16, patch_size=4))
        model.save_pretrained(other)
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(other)
        run_check(trained / POLICY_FOLDER, {"model.source": str(other)})


@pytest.mark.usefixtures("made_up_machine")
@pytest.mark.parametrize("cost", ["flops", "latency"])
def test_training_on_texts(folder: Path, tmp_path: Path, cost: str) -> None:
    wanted = recipe(folder, tmp_path / "run", "text", **{"cost.kind": cost, "reduction.layers": [1, 2]})
    policy = load_policy(run_train(wanted).folder / POLICY_FOLDER)
    assert policy.layers == (1, 2)
    assert isinstance(policy.cost, {"flops": FlopsCost, "latency": LatencyCost}[cost])
    assert all(np.isfinite(point.cost) for point in policy.calibration)
    evaluation = run_evaluate(tmp_path / "run" / POLICY_FOLDER, wanted.model_copy(update={"out": tmp_path / "seen"}))
    assert all(point.latency > 0 for point in evaluation.points)


@pytest.mark.usefixtures("made_up_machine")
def test_texts_may_be_longer_than_those_trained_on(folder: Path, tmp_path: Path) -> None:
    """The latency table reaches as far as validation and test need."""
    data = tmp_path / "data"
    data.mkdir()
    for split, length in (("train", 3), ("validation", 6), ("test", 8)):
        lines = [f"{' '.join(['film'] * (length - i % 2))},{('dark', 'light')[i % 2]}" for i in range(8)]
        (data / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    changes = {"cost.kind": "latency", "data.source": str(data)}
    run = run_train(recipe(folder, tmp_path / "run", "text", **changes)).folder
    run_evaluate(run / POLICY_FOLDER, recipe(folder, tmp_path / "seen", "text", **changes))
    model = load_model(str(folder / "bert"))
    with rltr.attach(model, run / POLICY_FOLDER, cost_weight=0.1), torch.no_grad():
        for length in (10, 11):  # in production, an input may be longer than any that was measured
            assert model(input_ids=torch.randint(5, 10, (2, length))).logits.isfinite().all()


def test_a_failure_leaves_no_half_a_policy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(training.TokenPPO, "train", fail)
        with pytest.raises(ZeroDivisionError):
            run_train(recipe(folder, tmp_path / "run"))
    assert names(tmp_path / "run") == {RECIPE_FILE, LOGS}
    with pytest.raises(RltrError, match="--resume"):
        run_export(tmp_path / "run", tmp_path / "out")
    # There is no checkpoint yet: to go on is to begin.
    resumed = run_train(recipe(folder, tmp_path / "run"), resume=True).folder
    assert load_policy(resumed / POLICY_FOLDER).calibration
    assert [row["rollouts"] for row in history_of(resumed)] == [8, 16]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, OSError])
def test_no_thread_outlives_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """A progress bar's thread once kept a process from ending, and added a traceback to every error."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(training.TokenPPO, "train", fail)
    monkeypatch.setattr(sys, "stdout", Terminal())
    before = set(threading.enumerate())
    with pytest.raises(error) as raised:
        run_train(recipe(folder, tmp_path / "run"))
    assert raised.value.__context__ is None
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # one that is just ending may
        assert not thread.is_alive(), thread


def test_rollouts_are_rounded_to_batches_and_said(folder: Path, tmp_path: Path, new_log: Callable[[], str]) -> None:
    run = run_train(recipe(folder, tmp_path / "run", **{"learner.rollouts": 17})).folder
    assert "24 rollouts (17 in whole batches of 8)" in new_log()
    assert [row["rollouts"] for row in history_of(run)] == [8, 16, 24]


def test_a_failure_while_the_policy_is_written_leaves_the_old_one(
    folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_policy(trained / POLICY_FOLDER).network.state_dict()

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("rltr.deploy.folder.card", full)
    with pytest.raises(OSError, match="no space"):
        run_train(recipe(folder, trained), resume=True)
    assert names(trained) == {RECIPE_FILE, LOGS, CHECKPOINT, POLICY_FOLDER}
    after = load_policy(trained / POLICY_FOLDER).network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"learner.rollouts": 32, "learner.checkpoint_every": 2}
    whole = run_train(recipe(folder, tmp_path / "whole", **options)).folder
    train, updates = training.TokenPPO.train, 0

    def interrupted(ppo: Any) -> None:
        nonlocal updates
        updates += 1
        if updates == 4:
            raise KeyboardInterrupt
        train(ppo)

    with monkeypatch.context() as patch:
        patch.setattr(training.TokenPPO, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_train(recipe(folder, tmp_path / "parts", **options))
    assert not (tmp_path / "parts" / POLICY_FOLDER).exists()
    torch.manual_seed(999)
    parts = run_train(recipe(folder, tmp_path / "parts", **options), resume=True).folder
    weights = [load_policy(run / POLICY_FOLDER).network.state_dict() for run in (whole, parts)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    histories = [history_of(run) for run in (whole, parts)]
    assert [row["rollouts"] for row in histories[1]] == [8, 16, 24, 32]
    for one, other in zip(*histories, strict=True):
        assert one["cost"] == other["cost"] and one["score"] == other["score"]


def test_the_model_is_left_as_it_was(folder: Path, tmp_path: Path) -> None:
    backbone, task = jobs.prepare(recipe(folder, tmp_path))
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    training.train_policy(backbone, task, recipe(folder, tmp_path), tmp_path / "run")
    assert backbone.config._attn_implementation == "sdpa"
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert not any(
        "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
        for module in backbone.model.modules()
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"reduction.layers": [1, 9]}, "0 to 3"),
    ({"data.source": "nothing"}, "there is no data"),
    ({"model.source": "./nothing"}, "no such folder"),
    ({"data.source": "embedded"}, "takes images of 3×16×16 and has 2 classes, but .* 1×56×56 in 10 classes.*--data"),
    ({"cost.kind": "latency", "cost.table": "nothing.json"}, "cannot read the latency table"),
    ({"device": "quantum"}, "not a device"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=[" ".join(changes) for changes, _ in REFUSED])
def test_what_is_refused_leaves_no_folder(folder: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """Or the retry would be told that there is a run already."""
    with pytest.raises(RltrError, match=said) as refused:
        run_train(recipe(folder, tmp_path / "run", **changes))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_text_model_is_not_for_the_embedded_data(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RltrError, match="takes input_ids and has 2 classes"):
        jobs.prepare(recipe(folder, tmp_path, "text", **{"data.source": "embedded"}))
