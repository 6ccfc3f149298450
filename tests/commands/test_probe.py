"""``rltr probe``: what it prints and writes, and what it refuses."""

import json
from pathlib import Path

import pytest

from tests.commands.conftest import rltr


def test_a_probe_prints_tables_and_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("rltr.probe.trials.PILOT_WEIGHTS", (0.01, 1.0, 100.0))
    monkeypatch.setattr("rltr.probe.trials.COSTS", (0.6,))
    monkeypatch.setattr("rltr.probe.trials.KEPT", (0.5,))
    done = rltr("probe", "--inputs", "2", "--out", tmp_path / "probe.json", "--threads", "1")
    assert done.exit_code == 0, done.output
    for word in ("Starts of a training", "Rules", "best start loses", "2 training inputs"):
        assert word in done.output
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["start"]["layers"] and found["passes"] > 0 and found["rules"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--inputs", "1"], "2"),
        (["no-such-model", "embedded"], "no-such-model"),
        (["embedded", "no-such-data"], "there is no data at"),
        (["--out", "no/such/folder.json"], "--out names the JSON file"),
        (["--set", "learner.rolouts=3"], "rolouts"),
    ],
)
def test_mistakes_are_refused(working_folder: Path, arguments: list[str], said: str) -> None:
    done = rltr("probe", *arguments)
    assert done.exit_code == 2 and said in done.stderr
    assert list(working_folder.iterdir()) == []
