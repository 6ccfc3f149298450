"""The commands' work from end to end, on a user's own tiny model and data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

import rltr
from rltr import jobs
from rltr.cost import FlopsCost, LatencyCost
from rltr.envs import default_layers
from rltr.errors import RltrError
from rltr.export import load_policy
from rltr.files import RECIPE_FILE
from rltr.jobs import POLICY_FOLDER, facts_of, history_of, run_check, run_evaluate, run_export, run_train
from rltr.loading import load_model
from rltr.recipe import Recipe, load_recipe
from rltr.train import run as training
from rltr.train.run import CHECKPOINT, LOGS

# Stable-baselines3 draws its progress bar with this, and silences the warning when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}
CLASSES: dict[str, Any] = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "poor", "film", "very", "not"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has: ``vit`` and ``photos``, ``bert`` and ``reviews.csv``."""
    folder = tmp_path_factory.mktemp("user")
    torch.manual_seed(0)
    vit = ViTConfig(**SMALL, **CLASSES, image_size=16, patch_size=4)
    ViTForImageClassification(vit).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / "vit")
    generator = np.random.default_rng(0)
    for name, brightness in (("dark", 60), ("light", 190)):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = (brightness + generator.integers(-60, 60, (16, 16, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
    bert = BertConfig(**SMALL, **CLASSES, vocab_size=len(WORDS), max_position_embeddings=24)
    BertForSequenceClassification(bert).save_pretrained(folder / "bert")
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder / "bert")
    lines = ["text,label"]
    for i in range(30):
        words = generator.choice(WORDS[5:], 2 + i % 7)
        lines.append(f"{' '.join(words)},{('dark', 'light')[i % 2]}")
    (folder / "reviews.csv").write_text("\n".join(lines) + "\n")
    return folder


def recipe(folder: Path, out: Path, kind: str = "image", **changes: Any) -> Recipe:
    """Two updates of eight rollouts."""
    model, data = ("vit", "photos") if kind == "image" else ("bert", "reviews.csv")
    values = {
        "model.source": str(folder / model),
        "data.source": str(folder / data),
        "cost.kind": "flops",
        "cost.batch_size": 4,
        "learner.rollouts": 16,
        "learner.batch": 8,
        "learner.checkpoint_every": 1,
        "policy.width": 8,
        "evaluation.cost_weights": [0.05, 2.0],
        "evaluation.keep_rates": [0.5],
        "evaluation.methods": ["random"],
        "evaluation.repeats": 1,
        "evaluation.batch_size": 8,
        "evaluation.gallery": 1,
        "device": "cpu",
        "threads": 1,
        "out": out,
        "data.fractions": (0.5, 0.25, 0.25),
    }
    return load_recipe(None, (), {**values, **changes})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on images."""
    return run_train(recipe(folder, tmp_path_factory.mktemp("run")))


def test_training_on_images(folder: Path, trained: Path) -> None:
    assert names(trained) == {RECIPE_FILE, LOGS, CHECKPOINT, POLICY_FOLDER}
    policy = load_policy(trained / POLICY_FOLDER)
    assert policy.layers == default_layers(4) and isinstance(policy.cost, FlopsCost)
    assert policy.network.config.width == 8 and policy.network.config.grid == 17
    assert len(policy.calibration) == training.CALIBRATED_WEIGHTS
    low, high = recipe(folder, trained).learner.cost_weight
    weights = [point.cost_weight for point in policy.calibration]
    assert [min(weights), max(weights)] == pytest.approx([low, high]) and weights == sorted(weights)
    assert Recipe.model_validate(policy.recipe) == recipe(folder, trained)
    assert not [path for path in trained.rglob("*") if path.suffix in {".pkl", ".pt", ".pth", ".bin", ".zip"}]


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
        assert {"accuracy", "dense_accuracy", "cost", "score", "price", "keep_rate/1"} <= row.keys()
        assert 0 <= row["accuracy"] <= 1 and 0 < row["cost"] < 1.5 and 0 < row["keep_rate/1"] <= 1
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
    evaluation = run_evaluate(trained / POLICY_FOLDER, recipe(folder, tmp_path / "measured"))
    methods = [(point.method, point.setting) for point in evaluation.points]
    assert methods[:2] == [("policy", 0.05), ("policy", 2.0)] and ("none", 1.0) in methods
    assert {"results.json", "report.html", RECIPE_FILE} <= names(tmp_path / "measured")
    json.loads((tmp_path / "measured" / "results.json").read_text())
    facts = facts_of(evaluation)
    assert [row["cost weight"] for row in facts["table"]] == ["0.05", "2"] and facts["environment"]
    # The analytic cost of the policy is the cost that its calibration and its rewards go by.
    policy = load_policy(trained / POLICY_FOLDER)
    assert all(0 < point.flops < 1.5 for point in evaluation.points) and isinstance(policy.cost, FlopsCost)


def test_checking_compares_with_the_native_model(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_check(trained / POLICY_FOLDER)
    said = " ".join(capsys.readouterr().out.split())
    assert "after detaching: identical" in said and said.count("cost weight") >= 4
    with pytest.raises(RltrError, match="fingerprint"):
        other = folder / "other"
        torch.manual_seed(5)
        model = ViTForImageClassification(ViTConfig(**SMALL, **CLASSES, image_size=16, patch_size=4))
        model.save_pretrained(other)
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(other)
        run_check(trained / POLICY_FOLDER, str(other))


@pytest.mark.parametrize("cost", ["flops", "latency"])
def test_training_on_texts(folder: Path, tmp_path: Path, cost: str) -> None:
    wanted = recipe(folder, tmp_path / "run", "text", **{"cost.kind": cost, "reduction.layers": [1, 2]})
    policy = load_policy(run_train(wanted) / POLICY_FOLDER)
    assert policy.layers == (1, 2)
    assert isinstance(policy.cost, {"flops": FlopsCost, "latency": LatencyCost}[cost])
    assert all(np.isfinite(point.cost) for point in policy.calibration)
    evaluation = run_evaluate(tmp_path / "run" / POLICY_FOLDER, wanted.model_copy(update={"out": tmp_path / "seen"}))
    assert all(point.latency > 0 for point in evaluation.points)


def test_texts_may_be_longer_than_those_trained_on(folder: Path, tmp_path: Path) -> None:
    """The latency table reaches as far as validation and test need."""
    data = tmp_path / "data"
    data.mkdir()
    for split, length in (("train", 3), ("validation", 6), ("test", 8)):
        lines = [f"{' '.join(['film'] * (length - i % 2))},{('dark', 'light')[i % 2]}" for i in range(8)]
        (data / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    changes = {"cost.kind": "latency", "data.source": str(data)}
    run = run_train(recipe(folder, tmp_path / "run", "text", **changes))
    run_evaluate(run / POLICY_FOLDER, recipe(folder, tmp_path / "seen", "text", **changes))
    model = load_model(str(folder / "bert"))
    with rltr.attach(model, run / POLICY_FOLDER, cost_weight=0.1), torch.no_grad():
        assert model(input_ids=torch.randint(5, 10, (2, 10))).logits.isfinite().all()
        with pytest.raises(RltrError, match="1 to 10 tokens.*longer inputs"):
            model(input_ids=torch.randint(5, 10, (2, 11)))


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
    resumed = run_train(recipe(folder, tmp_path / "run"), resume=True)
    assert load_policy(resumed / POLICY_FOLDER).calibration
    assert [row["rollouts"] for row in history_of(resumed)] == [8, 16]


def test_a_failure_while_the_policy_is_written_leaves_the_old_one(
    folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_policy(trained / POLICY_FOLDER).network.state_dict()

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("rltr.export.folder.card", full)
    with pytest.raises(OSError, match="no space"):
        run_train(recipe(folder, trained), resume=True)
    assert names(trained) == {RECIPE_FILE, LOGS, CHECKPOINT, POLICY_FOLDER}
    after = load_policy(trained / POLICY_FOLDER).network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"learner.rollouts": 32, "learner.checkpoint_every": 2}
    whole = run_train(recipe(folder, tmp_path / "whole", **options))
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
    parts = run_train(recipe(folder, tmp_path / "parts", **options), resume=True)
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
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.model.modules())


def test_impossible_layers_are_a_clear_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RltrError, match="0 to 3"):
        run_train(recipe(folder, tmp_path / "run", **{"reduction.layers": [1, 9]}))
    assert not (tmp_path / "run" / POLICY_FOLDER).exists()
