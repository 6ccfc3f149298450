"""The sweep over caps of a text's length reads finished runs, measures each cap once, and says what it found."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from rltr.evaluate import read_json
from rltr.evaluate.points import UNTRAINED
from rltr.jobs.training import run_train
from rltr.system.folders import POLICY_FILE, POLICY_FOLDER
from tests.jobs.conftest import recipe

NAMES = ("policy seed 0", "policy seed 1")


@pytest.fixture
def caps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("examples.caps")


@pytest.fixture(scope="module")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds on texts."""
    out = tmp_path_factory.mktemp("runs")
    wanted = [
        recipe(folder, out / str(seed), "text", **{"learner.seed": seed, "learner.rollouts": 8}) for seed in (0, 1)
    ]
    return [run_train(one).folder for one in wanted]


def sweep(caps: ModuleType, runs: list[Path], out: Path, patch: pytest.MonkeyPatch, *more: str) -> dict:
    command = ["caps", "--runs", *map(str, runs), "--caps", "4", "8", "--batch", "4", "--threads", "1"]
    patch.setattr(sys, "argv", [*command, "--max-drop", "0.999", "--out", str(out), *more])
    caps.main()
    return json.loads(out.read_text())


def test_every_cap_has_its_line_and_is_measured_once(
    caps: ModuleType,
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = sweep(caps, runs, tmp_path / "caps.json", monkeypatch)
    assert [row["cap"] for row in found["rows"]] == [4, 8]
    for row in found["rows"]:
        assert row["tokens"] <= row["tokens, padded"] <= row["cap"]
        # A loss of everything is accepted: each curve answers with the fastest point that was measured.
        points = json.loads(next(tmp_path.glob(f"caps-{row['cap']}-*.json")).read_text())["points"]
        fastest = [1 / min(p["latency"] for p in points if p["method"] == f"policy seed {seed}") for seed in (0, 1)]
        assert row["policy"] == pytest.approx(sum(fastest) / 2)
        assert (row["lowest"], row["highest"]) == pytest.approx((min(fastest), max(fastest)))
        others = [p for p in points if not p["method"].startswith("policy seed") and p["method"] != "none"]
        assert row["baseline"] == pytest.approx(1 / min(p["latency"] for p in others))
        chosen = [caps.Trained.load(run, 0.999).chosen for run in runs]
        there = [p for p in points if (p["method"], p["setting"]) in zip(NAMES, chosen, strict=True)]
        assert None not in chosen and len(there) == 2
        assert row["chosen"] == pytest.approx(sum(1 / p["latency"] for p in there) / 2)
        assert row["its accuracy"] == pytest.approx(sum(p["quality"] for p in there) / 2)
        assert row["packed"] == pytest.approx(1 / next(p["latency"] for p in points if p["method"] == "none"))
    assert "results of an earlier run" not in capsys.readouterr().out

    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("caps-*.json")}
    assert sweep(caps, runs, tmp_path / "caps.json", monkeypatch)["rows"] == found["rows"]
    assert capsys.readouterr().out.count("results of an earlier run") == 2
    assert before == {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("caps-*.json")}


def test_what_a_seed_never_reaches_is_not_averaged(
    caps: ModuleType, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(caps, runs, tmp_path / "caps.json", monkeypatch)
    measured = read_json(next(tmp_path.glob("caps-8-*.json")))
    points = [  # as if seed 1 had lost everything, and all others nothing
        replace(point, quality=0.0 if point.method == "policy seed 1" else measured.dense_quality)
        for point in measured.points
    ]
    trained = [caps.Trained.load(run, 0.999) for run in runs]
    row = caps.row_of(8, replace(measured, points=points), trained, max_drop=0.01)
    assert row["policy"] is None and row["lowest"] is None and row["highest"] is None
    assert row["baseline"] == pytest.approx(1 / min(p.latency for p in points if p.method in ("random", UNTRAINED)))


def test_agreement_is_read_at_equal_latency(
    caps: ModuleType, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep(caps, runs, tmp_path / "caps.json", monkeypatch)["equal latency, agreement"]
    measured = read_json(next(tmp_path.glob("caps-8-*.json")))
    kept = {"policy seed 0": 0.9, "policy seed 1": 0.7, "random": 0.6, "none": 1.0}
    points = [
        replace(point, agreement=kept.get(point.method, 0.5), latency=latency)
        for point in measured.points
        for latency in ((0.8, 1.0) if point.method == "none" else (0.2, 0.4))
    ]
    few, many, most = caps.agreements(replace(measured, points=points), NAMES, (0.1, 0.3, 0.9))
    assert few["policy"] is None and few["best baseline"] is None and few["its agreement"] is None
    assert (many["policy"], many["lowest"], many["highest"]) == pytest.approx((0.8, 0.7, 0.9))
    assert many["best baseline"].startswith("random") and many["its agreement"] == 0.6
    assert most["policy"] is None and most["best baseline"] == "none" and most["its agreement"] == 1.0


def test_runs_of_one_seed_are_no_spread(
    caps: ModuleType, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="same seed"):
        sweep(caps, [runs[0], runs[0]], tmp_path / "caps.json", monkeypatch)
    assert (runs[0] / POLICY_FOLDER / POLICY_FILE).exists() and not (tmp_path / "caps.json").exists()
