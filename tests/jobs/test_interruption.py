"""Whatever ends a training, the next one goes on from there: kills at any change to a file, signals, a full disk."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rltr.deploy import load_policy
from rltr.system.files import UNFINISHED
from rltr.system.folders import CHECKPOINT, LOCK_FILE, LOGS, POLICY_FOLDER, RECIPE_FILE
from tests.jobs.conftest import names

pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks, and sends signals")
KILLS = 6
OPTIONS = ["cost.kind=flops", "learner.rollouts=24", "learner.batch=8", "learner.checkpoint_every=1", "policy.width=8"]
OPTIONS += ["data.fractions=[0.5,0.25,0.25]"]


def command(folder: Path, out: str, *more: str) -> list[str]:
    given = ["train", "--model", str(folder / "vit"), "--data", str(folder / "photos"), "--out", out]
    return [
        *given,
        "--device",
        "cpu",
        "--threads",
        "1",
        *(part for option in OPTIONS for part in ("--set", option)),
        *more,
    ]


def resume(out: str) -> list[str]:
    return ["train", "--resume", "--out", out]


def run(tmp_path: Path, scenarios: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What became of each; all in one process, whose import of torch takes longer than any of them."""
    notes = tmp_path / f"notes-{len(list(tmp_path.iterdir()))}"
    notes.mkdir()
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("forked.py"))],
        input=json.dumps({"notes": str(notes), "scenarios": [{"folder": str(tmp_path), **one} for one in scenarios]}),
        env={**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def same_policy(one: Path, other: Path) -> bool:
    found = [load_policy(folder / POLICY_FOLDER) for folder in (one, other)]
    weights = [policy.network.state_dict() for policy in found]
    return found[0].calibration == found[1].calibration and all(
        torch.equal(value, weights[1][name]) for name, value in weights[0].items()
    )


def left_behind(out: Path) -> list[str]:
    return [str(path) for path in out.rglob("*") if UNFINISHED in path.name or path.name.endswith(".old")]


def test_a_kill_at_any_change_leaves_a_run_that_goes_on(folder: Path, tmp_path: Path) -> None:
    whole, *_ = run(tmp_path, [{"command": command(folder, "whole"), "watched": str(tmp_path / "whole")}])
    assert whole["code"] == 0, whole["stderr"]
    changes = whole["changes"]
    assert changes > 50
    # Among them the first one, at which there is a folder and no recipe in it yet.
    kills = [12, *(i * changes // KILLS for i in range(1, KILLS))]
    scenarios: list[dict[str, Any]] = []
    for number in kills:
        out = f"run{number}"
        scenarios.append({"command": command(folder, out), "watched": str(tmp_path / out), "kill_at": number})
        scenarios.append({"command": resume(out)})
        scenarios.append({"command": command(folder, out)})  # for one that was killed before it was a run
    results = run(tmp_path, scenarios)
    for i, number in enumerate(kills):
        killed, resumed, again = results[3 * i : 3 * i + 3]
        assert killed["code"] == -9, killed
        last = resumed if resumed["code"] == 0 else again
        assert last["code"] == 0, (number, resumed["stderr"], again["stderr"])
        if resumed["code"] != 0:
            assert resumed["code"] == 2 and "nothing to resume" in resumed["stderr"], (number, resumed)
        assert same_policy(tmp_path / "whole", tmp_path / f"run{number}"), number
        assert names(tmp_path / f"run{number}") == {RECIPE_FILE, LOGS, CHECKPOINT, POLICY_FOLDER}, number
        assert left_behind(tmp_path / f"run{number}") == []


def test_signals_unwind_and_say_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    signals = {"SIGTERM": 143, "SIGINT": 130}
    long = ["--set", "learner.rollouts=8000"]
    scenarios: list[dict[str, Any]] = []
    for name in signals:
        scenarios.append({"command": command(folder, name, *long), "signal": name, "when": f"{name}/{CHECKPOINT}"})
        scenarios.append({"command": [*resume(name), "--set", "learner.rollouts=8"]})
    results = run(tmp_path, scenarios)
    for i, (name, code) in enumerate(signals.items()):
        stopped, resumed = results[2 * i : 2 * i + 2]
        assert stopped["code"] == code, stopped
        assert stopped["stderr"].splitlines()[-1] == (
            f"rltr: interrupted; go on from the last checkpoint with: rltr train --resume --out {name}"
        )
        assert "Traceback" not in stopped["stderr"]
        assert resumed["code"] == 0, resumed
        assert names(tmp_path / name) == {RECIPE_FILE, LOGS, CHECKPOINT, POLICY_FOLDER}
        assert left_behind(tmp_path / name) == [] and LOCK_FILE not in names(tmp_path / name)


def test_a_full_disk_is_one_line_and_the_run_goes_on(folder: Path, tmp_path: Path) -> None:
    """From one that has no room for anything to one that has none for a checkpoint."""
    limits = [100, 6_000]
    scenarios: list[dict[str, Any]] = []
    for limit in limits:
        scenarios.append({"command": command(folder, f"full{limit}"), "limit": limit})
        scenarios.append({"command": resume(f"full{limit}")})
    # A checkpoint that is there stays when the next one does not fit.
    scenarios.append({"command": command(folder, "begun", "--set", "learner.rollouts=8")})
    scenarios.append({"command": [*resume("begun"), "--set", "learner.rollouts=24"], "limit": 14_000})
    scenarios.append({"command": [*resume("begun"), "--set", "learner.rollouts=24"]})
    results = run(tmp_path, scenarios)
    for i, limit in enumerate(limits):
        full, resumed = results[2 * i : 2 * i + 2]
        assert full["code"] == 2 and "check free space" in full["stderr"].splitlines()[-1], full
        assert "Traceback" not in full["stderr"], full
        out = tmp_path / f"full{limit}"
        if out.exists():
            assert resumed["code"] == 0 and load_policy(out / POLICY_FOLDER).calibration, resumed
        else:
            assert "nothing to resume" in resumed["stderr"]
    begun, full, resumed = results[-3:]
    assert begun["code"] == 0 and full["code"] == 2 and resumed["code"] == 0, (begun, full, resumed)
    assert "Traceback" not in full["stderr"] and f"{CHECKPOINT}: File too large" in full["stderr"].splitlines()[-1]
    assert names(tmp_path / "begun") == {RECIPE_FILE, LOGS, CHECKPOINT, POLICY_FOLDER}
    assert left_behind(tmp_path / "begun") == []
