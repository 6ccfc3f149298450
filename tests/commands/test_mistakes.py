"""A user's mistake is one line and exit code 2, found before anything is written."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rltr.commands import main as cli
from rltr.errors import RltrError
from rltr.recipe import load_recipe, save_recipe
from tests.commands.conftest import failing, rltr

MISTAKES = [
    (["train", "--set", "learner.rollout=3"], "unknown key 'learner.rollout'; did you mean 'learner.rollouts'"),
    (["train", "--recipe", "nothing.yaml"], "no such file"),
    (["train", "--data", "nothing"], "there is no data at 'nothing'"),
    (["train", "--model", "my-vit"], "there is no data for model 'my-vit'"),
    (["train", "--device", "cuda:63"], "valid here: auto, cpu"),
    (["train", "--device", "quantum"], "not a device's name"),
    (["train", "--seed", "-1"], "learner.seed is -1"),
    (["train", "--threads", "0"], "threads is 0"),
    (["train", "--set", "evaluation.methods=[best]"], "'best'"),
    (["train", "--resume"], "nothing to resume"),
    (["demo", "--quick", "--device", "quantum"], "not a device's name"),
    (["evaluate", "--policy", "nothing"], "is not a policy's folder: there is no such folder"),
    (["check", "."], "is not a policy's folder"),
    (["export", "--run", "nothing", "--out", "made"], "is not a run's folder"),
    (["recipe", "nothing"], "demo, quick"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistakes_give_one_line_and_write_nothing(
    arguments: list[str], said: str, working_folder: Path, jobs: list[tuple[Any, ...]]
) -> None:
    result = rltr(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("rltr: error: ") and result.stderr.count("\n") == 1
    assert said in result.stderr
    assert jobs == [] and list(working_folder.iterdir()) == []


def test_a_mistake_in_a_subprocess_gives_one_line(working_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rltr", "train", "--data", "nothing"],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    said = f"there is no data at 'nothing' (looked for {str(working_folder / 'nothing')!r})"
    assert done.stderr == f"rltr: error: {said}; name an existing folder or file with --data\n"


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_policy_is_refused(policy: Path, content: str) -> None:
    (policy / "config.json").write_text(content)
    result = rltr("check", policy)
    assert result.exit_code == 2 and "export the policy again" in result.stderr


def replace_by(file: Path, make: Callable[[Path], None]) -> None:
    file.unlink()
    make(file)


SPOILED: dict[str, Callable[[Path], object]] = {
    "a key twice": lambda file: file.write_text('{"a": 1, "a": 2}'),
    "no number": lambda file: file.write_text('{"a": NaN}'),
    "no text": lambda file: file.write_bytes(b"\xff\xfe\x00"),
    "very deep": lambda file: file.write_text("[" * 100_000),
    "a device": lambda file: replace_by(file, lambda place: place.symlink_to("/dev/zero")),
    "a pipe": lambda file: replace_by(file, os.mkfifo),
    "a folder": lambda file: replace_by(file, Path.mkdir),
    "huge": lambda file: os.truncate(file, 2**40),
}


@pytest.mark.parametrize("case", SPOILED)
@pytest.mark.parametrize("command", [["check"], ["evaluate", "--policy"]])
def test_a_hostile_policy_file_is_refused_in_one_line(
    case: str, command: list[str], policy: Path, jobs: list[tuple[Any, ...]]
) -> None:
    SPOILED[case](policy / "config.json")
    result = rltr(*command, policy)
    assert result.exit_code == 2 and jobs == []
    assert result.stderr.startswith("rltr: error: ") and result.stderr.count("\n") == 1


def test_a_run_folder_is_refused_with_the_path_of_its_policy(run_folder: Path, policy: Path) -> None:
    shutil.copytree(policy, run_folder / "policy")
    for command in (["check"], ["evaluate", "--policy"]):
        result = rltr(*command, run_folder)
        assert result.exit_code == 2 and f"its policy is {str(run_folder / 'policy')!r}" in result.stderr


def test_moved_models_and_data_are_refused_with_the_option_to_name_them(
    run_folder: Path, tmp_path: Path, jobs: list[tuple[Any, ...]]
) -> None:
    """A stored run knows where its model and data were, but not where they are now."""
    gone = str(tmp_path / "gone")
    for key, option in (("model.source", "--model"), ("data.source", "--data")):
        values = {"out": run_folder, "model.source": "embedded", "data.source": "embedded", key: gone}
        save_recipe(load_recipe(values=values), run_folder / "recipe.yaml")
        result = rltr("train", "--resume", "--out", run_folder)
        assert result.exit_code == 2 and f"is no longer at {gone!r}" in result.stderr and option in result.stderr
    assert jobs == []
    (tmp_path / "here").mkdir()
    assert rltr("train", "--resume", "--out", run_folder, "--data", tmp_path / "here").exit_code == 0
    assert jobs[0][1].data.source == str(tmp_path / "here")
    assert "leave out --recipe" in rltr("train", "--resume", "--out", run_folder, "--recipe", "quick").stderr


def test_messages_of_several_lines_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(RltrError("first\n  second")))
    )
    assert rltr("train").stderr == "rltr: error: first second\n"
    monkeypatch.setenv("RLTR_DEBUG", "1")
    assert isinstance(rltr("train").exception, RltrError)
