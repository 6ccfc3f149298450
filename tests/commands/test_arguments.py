"""What commands pass to their jobs, and which folders they refuse to write to."""

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rltr.recipe import Recipe, load_recipe
from rltr.system.folders import DEMO_FILE, EVALUATION_FILE
from tests.commands.conftest import rltr


def test_results_never_replace_other_files(working_folder: Path, run_folder: Path, jobs: list[tuple[Any, ...]]) -> None:
    (working_folder / "file").write_text("mine")
    for command in (["demo"], ["train"], ["train", "--resume"]):
        assert "is a file" in rltr(*command, "--out", "file").stderr
        assert "is a file" in rltr(*command, "--out", "file/below").stderr
        assert "is not there" in rltr(*command, "--out", working_folder).stderr
    assert "continue it with --resume" in rltr("train", "--out", run_folder).stderr
    assert "policy.safetensors is not there" in rltr("export", "--run", run_folder, "--out", working_folder).stderr
    assert jobs == [] and [path.name for path in working_folder.iterdir()] == ["file"]


def test_demo_may_be_repeated(run_folder: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert "holds a training run" in rltr("demo", "--quick", "--out", run_folder).stderr and jobs == []
    (run_folder / DEMO_FILE).touch()
    assert rltr("demo", "--quick", "--out", run_folder, "--seed", 3).exit_code == 0
    assert jobs == [("run_demo", load_recipe("quick", ["learner.seed=3"], {"out": run_folder}), True)]


def test_resume_uses_the_recipe_of_the_run(run_folder: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert (
        rltr("train", "--resume", "--out", run_folder, "--threads", 1, "--set", "learner.rollouts=99000").exit_code == 0
    )
    (_, recipe, resume) = jobs[0]
    assert isinstance(recipe, Recipe) and resume is True
    assert (recipe.learner.seed, recipe.learner.epochs, recipe.learner.rollouts, recipe.threads) == (5, 2, 99000, 1)
    assert "leave out learner.seed" in rltr("train", "--resume", "--out", run_folder, "--seed", 1).stderr


def test_evaluate_uses_the_recipe_of_the_policy(policy: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert rltr("evaluate", "--policy", policy, "--out", "made", "--set", "evaluation.examples=10").exit_code == 0
    (_, folder, recipe) = jobs[0]
    assert (folder, recipe.learner.seed, recipe.evaluation.examples, recipe.out) == (policy, 6, 10, Path("made"))


def test_evaluate_never_writes_over_a_run(policy: Path, run_folder: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert "holds a training run" in rltr("evaluate", "--policy", policy, "--out", run_folder).stderr and jobs == []
    (policy.parent / "measured").mkdir()
    (policy.parent / "measured" / EVALUATION_FILE).touch()
    assert rltr("evaluate", "--policy", policy, "--out", policy.parent / "measured").exit_code == 0


def test_evaluate_refuses_a_recipe_of_another_version(policy: Path, jobs: list[tuple[Any, ...]]) -> None:
    (policy / "config.json").write_text(json.dumps({"recipe": {"policy": {"prior": 4}}}))
    result = rltr("evaluate", "--policy", policy)
    assert result.exit_code == 2 and "another version wrote it" in result.stderr and jobs == []
    assert rltr("evaluate", "--policy", policy, "--recipe", "quick").exit_code == 0


def test_a_tilde_is_expanded_to_the_home_folder(
    policy: Path, run_folder: Path, jobs: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = policy.parent
    monkeypatch.setenv("HOME", str(home))
    assert rltr("export", "--run=~/run", "--out=~/made").exit_code == 0
    assert rltr("check", "~/policy").exit_code == 0
    assert rltr("evaluate", "--policy=~/policy", "--out=~/seen").exit_code == 0
    assert rltr("train", "--resume", "--out=~/run").exit_code == 0
    assert jobs[0] == ("run_export", home / "run", home / "made") and jobs[1][1] == jobs[2][1] == policy
    assert (jobs[2][2].out, jobs[3][1].out) == (home / "seen", run_folder)


def test_the_printed_next_command_can_be_pasted(
    run_folder: Path, jobs: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = "my cat's photos"
    said = [rltr("export", "--run", run_folder, "--out", out).stdout]
    monkeypatch.setitem(
        sys.modules,
        "rltr.jobs.training",
        SimpleNamespace(run_train=lambda recipe, _, progress: SimpleNamespace(folder=recipe.out)),
    )
    said.append(rltr("train", "--out", out).stdout)
    for line in said:
        assert out in shlex.split(line.partition("next: ")[2])


def test_export_and_check_pass_their_arguments_on(run_folder: Path, policy: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert rltr("export", "--run", run_folder, "--out", "made").exit_code == 0
    assert rltr("check", policy, "--model", "my-vit", "--data", "photos", "--threads", 2).exit_code == 0
    changes = {"model.source": "my-vit", "data.source": "photos", "threads": 2}
    assert jobs == [("run_export", run_folder, Path("made")), ("run_check", policy, changes)]
