"""A policy is calibrated again where it will run: prices, times and qualities change, its network does not."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rltr.commands import main as cli
from rltr.cost import FlopsCost, LatencyCost
from rltr.deploy import load_policy
from rltr.errors import RltrError
from rltr.jobs.calibrate import run_calibrate
from rltr.jobs.check import run_check
from rltr.jobs.training import run_train
from rltr.system.folders import POLICY_FOLDER
from tests.clocks import Machine, clock_of
from tests.jobs.conftest import recipe

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("made_up_machine")
def test_prices_and_times_are_those_of_this_machine(folder: Path, tmp_path: Path, new_log: Callable[[], str]) -> None:
    run = run_train(recipe(folder, tmp_path / "run", **{"cost.kind": "latency"})).folder
    there, before = load_policy(run / POLICY_FOLDER), content(run / POLICY_FOLDER)
    assert all(point.time is not None and point.share == point.time for point in there.calibration)
    new_log()
    with Machine(lambda now: 3.0) as machine:  # a slower one: shares are the same, seconds are not
        found = run_calibrate(run / POLICY_FOLDER, tmp_path / "here", clock=clock_of(machine))
    here = load_policy(tmp_path / "here")
    assert content(run / POLICY_FOLDER) == before
    assert isinstance(here.cost, LatencyCost) and isinstance(there.cost, LatencyCost)
    assert here.cost.native_pass(17) == pytest.approx(3 * there.cost.native_pass(17), rel=0.05)
    for old, new in zip(there.calibration, here.calibration, strict=True):
        assert new.cost_weight == old.cost_weight
        assert new.time == pytest.approx(old.time, rel=0.1)
    assert here.calibration == found.calibration
    assert all(
        torch.equal(value, here.network.state_dict()[name]) for name, value in there.network.state_dict().items()
    )
    assert (here.layers, here.typical_tokens, here.recipe) == (there.layers, there.typical_tokens, there.recipe)
    said = new_log()
    assert said.count("of the native time, accuracy") == len(here.calibration)
    assert run_check(tmp_path / "here")
    assert re.search(r"of the native time \(calibrated: \d\.\d\d\)", new_log())
    card = (tmp_path / "here" / "README.md").read_text()
    assert "about 60 % of the native time" in card and f"| {here.calibration[0].time:.3f} |" in card


@pytest.mark.usefixtures("made_up_machine")
def test_a_busy_machine_is_refused_and_nothing_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_train(recipe(folder, tmp_path / "run", **{"cost.kind": "latency", "cost.when_busy": "flops"})).folder
    before = content(run / POLICY_FOLDER)
    monkeypatch.setattr("rltr.train.trusted_prices.TOLERATED", 0.0)  # no prices are that good
    found = r"machine is busy: the load average is 9\.0.*Nothing was written: .* calibrate again"
    with Machine() as machine, pytest.raises(RltrError, match=found) as refused:
        run_calibrate(run / POLICY_FOLDER, run / POLICY_FOLDER, clock=clock_of(machine, load=9.0))
    assert "cost." not in str(refused.value)  # a calibration has no such setting
    assert content(run / POLICY_FOLDER) == before


def test_counted_prices_are_the_same_everywhere(run: Path, folder: Path, tmp_path: Path) -> None:
    """Qualities are not: here with fewer inputs, in place."""
    there = load_policy(run / POLICY_FOLDER)
    here = run_calibrate(run / POLICY_FOLDER, run / POLICY_FOLDER, {"data.validation_limit": 4})
    assert isinstance(here.cost, FlopsCost) and here.cost == there.cost
    assert {point.inputs for point in here.calibration} == {4} != {point.inputs for point in there.calibration}
    assert load_policy(run / POLICY_FOLDER).calibration == here.calibration
    assert "about 60 % of the cost" in (run / POLICY_FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--out, or give --in-place"),
        (["--out", "x", "--in-place"], "--out, or give --in-place"),
        (["--in-place", "--data", "nowhere"], "there is no data"),
    ],
)
def test_what_is_asked_is_clear(run: Path, arguments: list[str], said: str, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    before = content(run / POLICY_FOLDER)
    result = CliRunner().invoke(cli.app, ["calibrate", str(run / POLICY_FOLDER), *arguments])
    assert result.exit_code == 2 and said in result.stderr
    assert content(run / POLICY_FOLDER) == before


def test_the_command_says_what_comes_next(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["calibrate", str(run / POLICY_FOLDER), "--out", str(tmp_path / "mine")])
    assert result.exit_code == 0, result.output
    assert f"calibrated; next: rltr check {shlex.quote(str(tmp_path / 'mine'))}" in result.output
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert all(point["time"] is None for point in config["calibration"]) and not config["facts"]
