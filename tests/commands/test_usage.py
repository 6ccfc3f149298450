"""Version, help and wrong usage."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rltr.commands import main as cli
from rltr.recipe import load_recipe
from rltr.version import __version__
from tests.commands.conftest import rltr


def test_the_version_is_printed() -> None:
    result = rltr("--version")
    assert (result.exit_code, result.stdout) == (0, f"rltr {__version__}\n")


@pytest.mark.parametrize("command", ["", "demo", "train", "evaluate", "export", "check", "recipe"])
def test_help_shows_an_example(command: str) -> None:
    result = rltr(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"rltr {command or 'demo'}" in result.stdout.partition("Options:")[0].partition("\n")[2]


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys; from rltr.commands.main import main\ntry: main()\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_recipe_prints_what_train_reads(working_folder: Path, jobs: list[tuple[Any, ...]]) -> None:
    printed = rltr("recipe", "quick", "--set", "learner.seed=9").stdout
    (working_folder / "mine.yaml").write_text(printed, encoding="utf-8")
    assert rltr("train", "--recipe", "mine.yaml").exit_code == 0
    assert jobs == [("run_train", load_recipe("quick", ["learner.seed=9"]), False)]


@pytest.mark.parametrize("arguments", [["nothing"], ["train", "--nothing"], ["train", "--seed", "x"], ["evaluate"]])
def test_wrong_usage_prints_the_usage(arguments: list[str]) -> None:
    result = rltr(*arguments)
    assert result.exit_code == 2
    assert "Usage: rltr" in result.stderr and "Traceback" not in result.stderr
