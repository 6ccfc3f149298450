"""Two commands never write to one folder at once: the second is refused, and takes nothing from the first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rltr.errors import RltrError
from rltr.jobs import calibrate as recalibration
from rltr.jobs import training as jobs
from rltr.jobs.calibrate import run_calibrate
from rltr.jobs.demo import run_demo
from rltr.jobs.evaluation import run_evaluate
from rltr.jobs.export import run_export
from rltr.jobs.training import run_train
from rltr.system.folders import DEMO_FILE, EVALUATION_FILE, LOCK_FILE, POLICY_FOLDER
from rltr.system.lock import locked
from tests.jobs.conftest import recipe

COMMANDS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "train": lambda folder, trained, out: run_train(recipe(folder, out)),
    "demo": lambda folder, trained, out: run_demo(recipe(folder, out)),
    "evaluate": lambda folder, trained, out: run_evaluate(trained / POLICY_FOLDER, recipe(folder, out)),
    "export": lambda folder, trained, out: run_export(trained, out),
    "calibrate": lambda folder, trained, out: run_calibrate(trained / POLICY_FOLDER, out),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("marker", ["", DEMO_FILE, EVALUATION_FILE])
def test_a_folder_in_use_is_refused(folder: Path, trained: Path, tmp_path: Path, command: str, marker: str) -> None:
    """Whatever the first has written by then: nothing yet, or the file that says whose folder it is."""
    out = tmp_path / "out"
    with locked(out):
        if marker:
            (out / marker).touch()
        before = sorted(path.name for path in out.iterdir())
        with pytest.raises(RltrError, match="in use|holds something else"):
            COMMANDS[command](folder, trained, out)
        assert sorted(path.name for path in out.iterdir()) == before and LOCK_FILE in before


def test_going_on_twice_at_once_is_refused(folder: Path, run: Path) -> None:
    with locked(run), pytest.raises(RltrError, match="in use"):
        run_train(recipe(folder, run), resume=True)


@pytest.mark.parametrize("command", ["calibrate", "export"])
def test_the_policy_of_a_run_that_is_training_is_refused(folder: Path, run: Path, command: str) -> None:
    """The training holds the run's folder, not the policy's below it."""
    before = {path.name: path.read_bytes() for path in (run / POLICY_FOLDER).iterdir()}
    with locked(run), pytest.raises(RltrError, match="in use"):
        COMMANDS[command](folder, run, run / POLICY_FOLDER)
    assert {path.name: path.read_bytes() for path in (run / POLICY_FOLDER).iterdir()} == before


def test_a_calibration_holds_its_folder_before_anything_is_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place as elsewhere; and meanwhile no training goes on in the run."""
    prepare = recalibration.prepare
    refused: list[object] = []

    def meanwhile(wanted: Any, *given: Any) -> Any:
        for place in busy:
            with pytest.raises(RltrError, match="in use") as second, locked(place):
                pytest.fail("held twice")
            refused.append(second)
        return prepare(wanted, *given)

    monkeypatch.setattr(recalibration, "prepare", meanwhile)
    for out, busy in ((tmp_path / "out", [tmp_path / "out"]), (run / POLICY_FOLDER, [run / POLICY_FOLDER, run])):
        run_calibrate(run / POLICY_FOLDER, out)
        assert not any((place / LOCK_FILE).exists() for place in busy)
    assert len(refused) == 3


def test_it_is_held_before_anything_is_loaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading and measuring take minutes: time enough to begin a second run in a folder that is still empty."""
    prepare, refused = jobs.prepare, []

    def meanwhile(wanted: Any, *given: Any) -> Any:
        for command in ("train", "demo"):
            with pytest.raises(RltrError, match="in use") as second:
                COMMANDS[command](folder, tmp_path, tmp_path / "run")
            refused.append(second)
        return prepare(wanted, *given)

    monkeypatch.setattr(jobs, "prepare", meanwhile)
    run_train(recipe(folder, tmp_path / "run"))
    assert len(refused) == 2 and not (tmp_path / "run" / LOCK_FILE).exists()
