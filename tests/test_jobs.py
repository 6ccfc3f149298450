"""The commands' work from end to end, on a user's own tiny model and data."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

import rltr
from rltr import jobs, parity
from rltr.checking import run_check
from rltr.cost import COST_MODELS, FlopsCost, LatencyCost
from rltr.envs import DenseLogits, default_layers
from rltr.errors import RltrError
from rltr.export import load_policy
from rltr.export.folder import CARD
from rltr.folders import (
    CHECKPOINT,
    DEMO_FILE,
    EVALUATION_FILE,
    LATENCY_FILE,
    LOGS,
    POLICY_FOLDER,
    RECIPE_FILE,
    clear_out,
)
from rltr.jobs import facts_of, history_of, run_demo, run_evaluate, run_export, run_train
from rltr.loading import load_model
from rltr.policies.observation import CLUES
from rltr.recipe import Recipe, load_recipe
from rltr.selectors import RandomChoice
from rltr.train import run as training
from rltr.train.checkpoint import TENSORS
from rltr.train.cost_model import MAKERS

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
        paid = float(policy.pricing.total(list(stages)).mean() / policy.pricing.unit)
        assert flops["policy", weight] == pytest.approx(paid, rel=1e-5)
    assert flops["none", 1.0] == 1
    assert flops["random", 0.5] == pytest.approx(flops_by_hand([17, 9], decision=False) / flops_by_hand([17]))


def flops_by_hand(counts: list[int], decision: bool = True) -> int:
    """What 4 layers of width 16 take for 17 tokens, or, with a decision of width 8 before the first, for fewer."""
    tokens = counts[-1]
    # Four maps of 16 to 16 and two between 16 and 32, two FLOPs each; then queries by keys and weights by values.
    layers = 4 * (tokens * 2 * (4 * 16 * 16 + 2 * 16 * 32) + tokens**2 * 2 * 2 * 16)
    if len(counts) == 1 or not decision:
        return layers
    # Hidden states and CLUES numbers to 8, 8 to 8, 8 to 1, and the reader's attention; a quarter of all pairs compared.
    return layers + counts[0] * 2 * (8 * (16 + CLUES + 8 + 1) + 16) + counts[0] ** 2 * 2 * 16 // 4


def test_checking_compares_with_the_native_model(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_check(trained / POLICY_FOLDER)
    said = " ".join(capsys.readouterr().out.split())
    assert "after detaching: identical" in said and said.count("cost weight") >= 4
    with pytest.raises(RltrError, match="fingerprint"):
        other = folder / "other"
        torch.manual_seed(5)
        model = ViTForImageClassification(ViTConfig(**SMALL, **CLASSES, image_size=16, patch_size=4))
        model.save_pretrained(other)
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(other)
        run_check(trained / POLICY_FOLDER, {"model.source": str(other)})


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


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"reduction.layers": [1, 9]}, "0 to 3"),
    ({"data.source": "nothing"}, "there is no data"),
    ({"model.source": "./nothing"}, "no such folder"),
    ({"data.source": "embedded"}, "takes images of 3×16×16 and knows 2 classes, but .* 1×56×56 in 10 classes.*--data"),
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
    with pytest.raises(RltrError, match="takes input_ids and knows 2 classes"):
        jobs.prepare(recipe(folder, tmp_path, "text", **{"data.source": "embedded"}))


# Going on, and beginning again


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"policy.width": 16}, "policy.width was 8, now 16"),
    ({"reduction.layers": [2, 3]}, r"reduction.layers was 'auto', now \[2, 3\]"),
    ({"learner.seed": 9}, "learner.seed was 0, now 9"),
    ({"learner.batch": 16}, "learner.batch was 8, now 16"),
    ({"cost.kind": "latency"}, "cost.kind was 'flops', now 'latency'"),
    ({"data.split_seed": 1, "score": "fidelity"}, "data.split_seed was 0, now 1; score was 'both', now 'fidelity'"),
]


@pytest.mark.parametrize(("changes", "said"), CHANGED, ids=[" ".join(changes) for changes, _ in CHANGED])
def test_another_recipe_cannot_go_on(folder: Path, run: Path, changes: dict[str, Any], said: str) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RltrError, match=f"{said}.*may change: learner.rollouts"):
        run_train(recipe(folder, run, **changes), resume=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_how_long_and_where_may_change(folder: Path, run: Path) -> None:
    changes = {"learner.rollouts": 24, "learner.learning_rate": 1e-3, "evaluation.repeats": 2}
    run_train(recipe(folder, run, **changes), resume=True)
    assert load_recipe(run / RECIPE_FILE) == recipe(folder, run, **changes)
    assert [row["rollouts"] for row in history_of(run)] == [8, 16, 24]


def test_a_run_is_found_from_any_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it was called where it was trained; a run of an older version, from there."""
    given = {"model.source": "vit", "data.source": "photos", "cost.table": None}
    monkeypatch.chdir(folder)
    run = run_train(recipe(folder, tmp_path / "run", **given))
    checkpoint = run / CHECKPOINT / "state.json"
    policy = load_policy(run / POLICY_FOLDER)
    for stored in (
        load_recipe(run / RECIPE_FILE),
        json.loads(checkpoint.read_text())["extra"]["recipe"],
        policy.recipe,
    ):
        stored = stored if isinstance(stored, Recipe) else Recipe.model_validate(stored)
        assert (stored.model.source, stored.data.source) == (str(folder / "vit"), str(folder / "photos"))
    assert policy.backbone["name"] == "vit"
    monkeypatch.chdir(tmp_path)
    changes = {"out": tmp_path / "measured", "evaluation.gallery": 0}
    assert run_evaluate(run / POLICY_FOLDER, load_recipe(policy.recipe, (), changes)).model == "vit"
    assert run_check(run / POLICY_FOLDER)
    longer = {"learner.rollouts": 24}
    run_train(load_recipe(run / RECIPE_FILE, (), longer), resume=True)
    facts = json.loads(checkpoint.read_text())
    facts["extra"]["recipe"]["model"]["source"], facts["extra"]["recipe"]["data"]["source"] = "vit", "photos"
    checkpoint.write_text(json.dumps(facts))
    monkeypatch.chdir(folder)
    run_train(recipe(folder, run, **given, **{"learner.rollouts": 32}), resume=True)
    assert [row["rollouts"] for row in history_of(run)] == [8, 16, 24, 32]


def test_a_checkpoint_without_a_recipe_is_a_clear_line(folder: Path, run: Path) -> None:
    file = run / CHECKPOINT / "state.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "extra": {"cost": facts["extra"]["cost"]}}))
    with pytest.raises(RltrError, match="another version"):
        run_train(recipe(folder, run), resume=True)
    facts["extra"]["recipe"]["policy"]["prior"] = 4.0
    file.write_text(json.dumps(facts))
    with pytest.raises(RltrError, match="unknown key 'policy.prior'.*another version wrote it"):
        run_train(recipe(folder, run), resume=True)


def test_a_checkpoint_set_aside_is_found(folder: Path, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a kill between the two renames of ``atomic_folder`` leaves it."""
    (run / CHECKPOINT).rename(run / f".{CHECKPOINT}.old")
    run_train(recipe(folder, run, **{"learner.rollouts": 24}), resume=True)
    assert [row["rollouts"] for row in history_of(run)] == [8, 16, 24] and not caplog.records
    shutil.rmtree(run / CHECKPOINT)
    run_train(recipe(folder, run), resume=True)
    assert "starts from the beginning" in caplog.text


def test_a_run_is_not_replaced_by_another(folder: Path, run: Path) -> None:
    with pytest.raises(RltrError, match="holds a run already"):
        run_train(recipe(folder, run, **{"learner.seed": 1}))
    with pytest.raises(RltrError, match="holds a training run"):
        run_demo(recipe(folder, run))
    with pytest.raises(RltrError, match="holds a training run"):
        run_evaluate(run / POLICY_FOLDER, recipe(folder, run))
    assert load_recipe(run / RECIPE_FILE).learner.seed == 0


def test_a_demo_replaces_all_of_the_last_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    run_demo(recipe(folder, out))
    assert {DEMO_FILE, RECIPE_FILE, LOGS, CHECKPOINT, POLICY_FOLDER, "report.html"} <= names(out)
    (out / "notes.txt").write_text("mine")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    # What is refused takes nothing away.
    with pytest.raises(RltrError, match="0 to 3"):
        run_demo(recipe(folder, out, **{"reduction.layers": [9]}))
    assert {CHECKPOINT, POLICY_FOLDER, "report.html"} <= names(out)
    with monkeypatch.context() as patch:
        patch.setattr(training.TokenPPO, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_demo(recipe(folder, out, **{"learner.seed": 1}))
    assert names(out) == {DEMO_FILE, RECIPE_FILE, LOGS, "notes.txt"}
    # To go on is to begin with seed 1, not to end with seed 0; and what somebody trained further is no demo any more.
    run_train(recipe(folder, out, **{"learner.seed": 1}), resume=True)
    assert load_policy(out / POLICY_FOLDER).recipe["learner"]["seed"] == 1
    with pytest.raises(RltrError, match="holds a training run"):
        run_demo(recipe(folder, out))


def test_results_travel_with_a_demos_policy(folder: Path, tmp_path: Path) -> None:
    """And nothing that a demo writes outlives what it is part of."""
    run_demo(recipe(folder, tmp_path / "demo", **{"cost.kind": "latency"}))
    run_export(tmp_path / "demo", tmp_path / "mine")
    card = (tmp_path / "mine" / CARD).read_text()
    assert "Measured, on the test split" in card
    assert card == (tmp_path / "demo" / POLICY_FOLDER / CARD).read_text()
    clear_out(tmp_path / "demo")
    assert names(tmp_path / "demo") == set()


def test_an_evaluation_replaces_an_evaluation(folder: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "measured"
    run_evaluate(trained / POLICY_FOLDER, recipe(folder, out))
    run_export(trained, tmp_path / "mine")
    (tmp_path / LOGS / "0").mkdir(parents=True)
    (tmp_path / LOGS / "0" / "progress.csv").write_text("rltr/rollouts\nsomebody else's\n")
    run_evaluate(tmp_path / "mine", recipe(folder, out, **{"evaluation.gallery": 0}))
    assert "training.png" not in names(out) and load_recipe(out / EVALUATION_FILE).evaluation.gallery == 0


def test_other_log_folders_are_passed_over(run: Path) -> None:
    before = history_of(run)
    (run / LOGS / "ppo_1").mkdir()
    (run / LOGS / "ppo_1" / "progress.csv").write_text("rltr/rollouts\n99\n")
    assert history_of(run) == before


# Prices


def test_a_run_is_repeated_with_its_prices(folder: Path, tmp_path: Path) -> None:
    first = run_train(recipe(folder, tmp_path / "first", **{"cost.kind": "latency"}))
    table = {"cost.kind": "latency", "cost.table": first / LATENCY_FILE}
    second = run_train(recipe(folder, tmp_path / "second", **table))
    policies = [load_policy(path / POLICY_FOLDER) for path in (first, second)]
    assert policies[0].cost == policies[1].cost
    assert policies[0].calibration == policies[1].calibration
    assert (first / LATENCY_FILE).read_bytes() == (second / LATENCY_FILE).read_bytes()
    content = json.loads((first / LATENCY_FILE).read_text())
    for curve in content["tables"].values():
        del curve["counts"][-1], curve["seconds"][-1]
    (tmp_path / "short.json").write_text(json.dumps(content))
    with pytest.raises(RltrError, match="longer inputs than it was measured for"):
        run_train(recipe(folder, tmp_path / "third", **{**table, "cost.table": tmp_path / "short.json"}))
    assert not (tmp_path / "third").exists()
    with pytest.raises(RltrError, match="threads 1 there, 2 here.*--threads 1"):
        run_train(recipe(folder, first, **{"cost.kind": "latency", "threads": 2}), resume=True)


def test_dense_logits_are_paid_for_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    compute = DenseLogits._compute

    def counted(self: DenseLogits, part: torch.Tensor) -> torch.Tensor:
        computed.append(len(part))
        return compute(self, part)

    monkeypatch.setattr(DenseLogits, "_compute", counted)
    monkeypatch.setenv("RLTR_CACHE", str(tmp_path / "cache"))
    off = {"data.cache_megabytes": 0}
    run_train(recipe(folder, tmp_path / "off", **off))
    assert computed and not (tmp_path / "cache").exists()
    computed.clear()
    runs = [run_train(recipe(folder, tmp_path / name)) for name in ("first", "second")]
    paid = len(computed)
    assert paid == len(set(load_file(runs[0] / CHECKPOINT / TENSORS)["dense.known"].nonzero().flatten().tolist()))
    first, second = (load_file(run / POLICY_FOLDER / "policy.safetensors") for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_cost_model_can_be_made_by_a_recipe() -> None:
    assert set(MAKERS) == set(COST_MODELS)


# Checking


def test_checking_needs_no_data(
    folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run_train(recipe(folder, tmp_path / "text", "text"))
    for run, source, where in ((trained, "some/photos", "is not loaded unasked"), (text, "gone", "is not here")):
        policy = shutil.copytree(run / POLICY_FOLDER, tmp_path / f"{run.name} policy")
        config = json.loads((policy / "config.json").read_text())
        config["recipe"]["data"]["source"] = source
        (policy / "config.json").write_text(json.dumps(config))
        assert run_check(policy)
        said = " ".join(capsys.readouterr().out.split())
        assert (
            f"'{source}'" in said
            and f"{where}: checking on random inputs" in said
            and "cost weight" in said
            and "accuracy" not in (said.partition("cost weight")[2])
        )
        with pytest.raises(RltrError, match="there is no data"):
            run_check(policy, {"data.source": "nowhere"})
    assert run_check(policy, {"data.source": str(folder / "reviews.csv"), "threads": 1})
    assert "accuracy" in capsys.readouterr().out.partition("cost weight")[2]


def test_checking_finds_a_model_that_answers_otherwise(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def drops(*_: Any) -> Any:
        return RandomChoice(0.5)

    monkeypatch.setattr(parity, "KeepAll", drops)
    assert not run_check(trained / POLICY_FOLDER)
    assert "cost weight" not in capsys.readouterr().out


def test_a_policys_recipe_of_another_version_is_a_clear_line(trained: Path, tmp_path: Path) -> None:
    policy = shutil.copytree(trained / POLICY_FOLDER, tmp_path / "policy")
    config = json.loads((policy / "config.json").read_text())
    config["recipe"]["policy"]["prior"] = 4.0
    (policy / "config.json").write_text(json.dumps(config))
    with pytest.raises(RltrError, match="unknown key 'policy.prior'.*another version wrote it"):
        run_check(policy)
