"""Going on with a run, beginning again, and what may replace what."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rltr.deploy import load_policy
from rltr.deploy.folder import CARD
from rltr.errors import RltrError
from rltr.jobs.check import run_check
from rltr.jobs.demo import run_demo
from rltr.jobs.evaluation import history_of, run_evaluate
from rltr.jobs.export import run_export
from rltr.jobs.training import run_train
from rltr.recipe import Recipe, load_recipe
from rltr.system.folders import CHECKPOINT, DEMO_FILE, EVALUATION_FILE, LOGS, POLICY_FOLDER, RECIPE_FILE, clear_out
from rltr.train import run as training
from tests.conftest import logged_warnings
from tests.jobs.conftest import names, recipe

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
    run = run_train(recipe(folder, tmp_path / "run", **given)).folder
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
    assert [row["rollouts"] for row in history_of(run)] == [8, 16, 24] and not logged_warnings(caplog)
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


@pytest.mark.usefixtures("made_up_machine")
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
