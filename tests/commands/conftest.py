"""The command line with stand-ins for the jobs, run in an empty folder."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rltr.commands import main as cli
from rltr.recipe import load_recipe, save_recipe


def rltr(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="rltr")


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, so that tests see everything that a command writes."""
    folder = tmp_path / "working_folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replace the jobs by stand-ins; returns the list of recorded calls."""
    calls: list[tuple[Any, ...]] = []

    def stand_in(name: str) -> Any:
        def run(*arguments: Any, progress: bool = False) -> SimpleNamespace:
            calls.append((name, *arguments))
            return SimpleNamespace(folder=Path("made"))

        return run

    jobs = {
        "demo": "run_demo",
        "training": "run_train",
        "evaluation": "run_evaluate",
        "export": "run_export",
        "check": "run_check",
    }
    for module, name in jobs.items():
        monkeypatch.setitem(sys.modules, f"rltr.jobs.{module}", SimpleNamespace(**{name: stand_in(name)}))
    return calls


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    save_recipe(load_recipe(None, ["learner.seed=5", "learner.epochs=2"], {"out": folder}), folder / "recipe.yaml")
    return folder


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    recipe = load_recipe(None, ["learner.seed=6"]).model_dump(mode="json")
    (folder / "config.json").write_text(json.dumps({"recipe": recipe}))
    return folder


def failing(error: BaseException) -> Any:
    def run(*_: Any, **__: Any) -> None:
        raise error

    return run
