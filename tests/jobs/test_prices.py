"""What is measured or computed once is used again; checking."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rltr import parity
from rltr.checking import run_check
from rltr.cost import COST_MODELS
from rltr.envs import DenseLogits
from rltr.errors import RltrError
from rltr.export import load_policy
from rltr.folders import CHECKPOINT, LATENCY_FILE, POLICY_FOLDER
from rltr.jobs import run_train
from rltr.selectors import RandomChoice
from rltr.train.checkpoint import TENSORS
from rltr.train.cost_model import MAKERS
from tests.jobs.conftest import recipe

# Stable-baselines3 draws its progress bar with this, and silences the warning when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


def test_a_run_is_repeated_with_its_prices(folder: Path, tmp_path: Path) -> None:
    first = run_train(recipe(folder, tmp_path / "first", **{"cost.kind": "latency"}))
    table = {"cost.kind": "latency", "cost.table": first / LATENCY_FILE}
    second = run_train(recipe(folder, tmp_path / "second", **table))
    policies = [load_policy(path / POLICY_FOLDER) for path in (first, second)]
    assert policies[0].cost == policies[1].cost
    assert policies[0].calibration == policies[1].calibration
    assert (first / LATENCY_FILE).read_bytes() == (second / LATENCY_FILE).read_bytes()
    content = json.loads((first / LATENCY_FILE).read_text())
    for curve in content["tables"].values():
        del curve["counts"][-1], curve["seconds"][-1]
    (tmp_path / "short.json").write_text(json.dumps(content))
    with pytest.raises(RltrError, match="longer inputs than it was measured for"):
        run_train(recipe(folder, tmp_path / "third", **{**table, "cost.table": tmp_path / "short.json"}))
    assert not (tmp_path / "third").exists()
    with pytest.raises(RltrError, match="threads 1 there, 2 here.*--threads 1"):
        run_train(recipe(folder, first, **{"cost.kind": "latency", "threads": 2}), resume=True)


def test_dense_logits_are_paid_for_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    compute = DenseLogits._compute

    def counted(self: DenseLogits, part: torch.Tensor) -> torch.Tensor:
        computed.append(len(part))
        return compute(self, part)

    monkeypatch.setattr(DenseLogits, "_compute", counted)
    monkeypatch.setenv("RLTR_CACHE", str(tmp_path / "cache"))
    off = {"data.cache_megabytes": 0}
    run_train(recipe(folder, tmp_path / "off", **off))
    assert computed and not (tmp_path / "cache").exists()
    computed.clear()
    runs = [run_train(recipe(folder, tmp_path / name)) for name in ("first", "second")]
    paid = len(computed)
    assert paid == len(set(load_file(runs[0] / CHECKPOINT / TENSORS)["dense.known"].nonzero().flatten().tolist()))
    first, second = (load_file(run / POLICY_FOLDER / "policy.safetensors") for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_cost_model_can_be_made_by_a_recipe() -> None:
    assert set(MAKERS) == set(COST_MODELS)


def test_checking_needs_no_data(
    folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run_train(recipe(folder, tmp_path / "text", "text"))
    for run, source, where in ((trained, "some/photos", "is not loaded unasked"), (text, "gone", "is not here")):
        policy = shutil.copytree(run / POLICY_FOLDER, tmp_path / f"{run.name} policy")
        config = json.loads((policy / "config.json").read_text())
        config["recipe"]["data"]["source"] = source
        (policy / "config.json").write_text(json.dumps(config))
        assert run_check(policy)
        said = " ".join(capsys.readouterr().out.split())
        assert (
            f"'{source}'" in said
            and f"{where}: checking on random inputs" in said
            and "cost weight" in said
            and "accuracy" not in (said.partition("cost weight")[2])
        )
        with pytest.raises(RltrError, match="there is no data"):
            run_check(policy, {"data.source": "nowhere"})
    assert run_check(policy, {"data.source": str(folder / "reviews.csv"), "threads": 1})
    assert "accuracy" in capsys.readouterr().out.partition("cost weight")[2]


def test_checking_finds_a_model_that_answers_otherwise(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def drops(*_: Any) -> Any:
        return RandomChoice(0.5)

    monkeypatch.setattr(parity, "KeepAll", drops)
    assert not run_check(trained / POLICY_FOLDER)
    assert "cost weight" not in capsys.readouterr().out


def test_a_policys_recipe_of_another_version_is_a_clear_line(trained: Path, tmp_path: Path) -> None:
    policy = shutil.copytree(trained / POLICY_FOLDER, tmp_path / "policy")
    config = json.loads((policy / "config.json").read_text())
    config["recipe"]["policy"]["prior"] = 4.0
    (policy / "config.json").write_text(json.dumps(config))
    with pytest.raises(RltrError, match="unknown key 'policy.prior'.*another version wrote it"):
        run_check(policy)
