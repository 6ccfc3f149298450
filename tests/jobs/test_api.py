"""``rltr.train`` and ``rltr.evaluate``: the same as the commands, with a model and data in memory, too."""

import inspect
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from transformers import PreTrainedModel

import rltr
from rltr.errors import RltrError
from rltr.jobs.check import run_check
from rltr.jobs.training import run_train
from rltr.recipe import IN_MEMORY, by_own_name, load_recipe
from rltr.system.folders import EVALUATION_FILE, POLICY_FOLDER
from rltr.tasks.models import load_model
from tests.jobs.conftest import names, recipe

TWO_UPDATES: dict[str, Any] = {
    "cost": {"kind": "flops", "batch_size": 4},
    "rollouts": 16,
    "batch": 8,
    "width": 8,
    "device": "cpu",
    "threads": 1,
    "fractions": (0.5, 0.25, 0.25),
}
MEASURED: dict[str, Any] = {"cost_weights": [0.05, 2.0], "keep_rates": [0.5], "methods": ["random"], "gallery": 1}


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return load_model(str(folder / "vit"))


@pytest.fixture
def photos(folder: Path) -> datasets.DatasetDict:
    """The photos as an object of ``datasets``, in three splits."""
    whole = datasets.load_dataset("imagefolder", data_dir=str(folder / "photos"), split="train").shuffle(seed=0)
    cut = whole.train_test_split(test_size=8, seed=0)
    rest = cut["test"].train_test_split(test_size=4, seed=0)
    return datasets.DatasetDict(train=cut["train"], validation=rest["train"], test=rest["test"])


def test_from_paths_it_is_what_the_command_does(folder: Path, tmp_path: Path) -> None:
    run = rltr.train(folder / "vit", str(folder / "photos"), out=tmp_path / "run", **TWO_UPDATES)
    other = run_train(load_recipe(run.recipe.model_dump(mode="json"), (), {"out": tmp_path / "other"}))
    assert run.recipe == recipe(folder, tmp_path / "run", **{"learner.checkpoint_every": 25, **_evaluation_defaults()})
    mine, theirs = run.policy.network.state_dict(), other.policy.network.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert [row["rltr/rollouts"] for row in run.history()] == [8, 16]
    assert list(run.history_frame()["rltr/rollouts"]) == [8, 16]
    opened = rltr.Run.open(run.folder)
    assert opened.recipe.learner == run.recipe.learner and opened.policy.layers == run.policy.layers


def _evaluation_defaults() -> dict[str, Any]:
    return {f"evaluation.{name}": value for name, value in load_recipe().evaluation.model_dump().items()}


def test_a_model_and_data_in_memory(
    model: PreTrainedModel, photos: datasets.DatasetDict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model.requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = rltr.train(model, photos, out=tmp_path / "run", **TWO_UPDATES)
    assert run.recipe.data.source == IN_MEMORY and run.recipe.model.source == model.name_or_path
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    evaluation = rltr.evaluate(run, model, photos, **MEASURED)
    assert evaluation.examples == 4
    with rltr.attach(model, run.policy, cost_weight=0.5), torch.no_grad():
        assert model(pixel_values=torch.randn(2, 3, 16, 16)).logits.shape == (2, 2)
    assert names(tmp_path) == {"run"}  # an evaluation without a folder writes nothing
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_what_was_in_memory_is_asked_for_again(
    model: PreTrainedModel, photos: datasets.DatasetDict, tmp_path: Path
) -> None:
    model.config._name_or_path = model.name_or_path = ""
    run = rltr.train(model, _tensors(photos), out=tmp_path / "run", **TWO_UPDATES)
    assert run.recipe.model.source == IN_MEMORY
    with pytest.raises(RltrError, match="the model of this training was passed from Python.*--model.*model="):
        rltr.evaluate(run)
    with pytest.raises(RltrError, match="the data of this training was passed from Python.*--data.*data="):
        rltr.evaluate(run, model)
    with pytest.raises(RltrError, match="the model of this training was passed from Python"):
        run_check(run.policy_folder)
    longer = {**TWO_UPDATES, "rollouts": 24}
    again = rltr.train(model, _tensors(photos), out=tmp_path / "run", resume=True, **longer)
    assert [row["rltr/rollouts"] for row in again.history()] == [8, 16, 24]
    other = {split: {**arrays, "pixel_values": -arrays["pixel_values"]} for split, arrays in _tensors(photos).items()}
    with pytest.raises(RltrError, match="data"):
        rltr.train(model, other, out=tmp_path / "run", resume=True, **{**longer, "rollouts": 32})


def _tensors(photos: datasets.DatasetDict) -> dict[str, dict[str, Any]]:
    """The photos as model inputs."""
    return {
        split: {
            "pixel_values": np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) for image in table["image"]])
            / 255,
            "labels": np.array(table["label"]),
        }
        for split, table in photos.items()
    }


def test_a_task_that_is_read_already(model: PreTrainedModel, photos: datasets.DatasetDict, tmp_path: Path) -> None:
    task = rltr.load_task(model, photos)
    run = rltr.train(model, task, out=tmp_path / "run", train_limit=6, **TWO_UPDATES)
    assert run.recipe.data.train_limit == 6 and len(task.train) == 16


@pytest.fixture
def run_of_photos(trained: Path) -> "rltr.Run":
    return rltr.Run.open(trained)


def test_a_table_of_the_evaluation(run_of_photos: "rltr.Run", tmp_path: Path) -> None:
    evaluation = rltr.evaluate(run_of_photos.policy_folder, out=tmp_path / "measured", **MEASURED)
    assert {"report.html", "results.json", EVALUATION_FILE} <= names(tmp_path / "measured")
    frame = evaluation.to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == len(evaluation.points)
    assert frame["accuracy"].tolist() == [point.quality for point in evaluation.points]
    assert frame["latency"].dtype == float and frame["series"].nunique() == len(evaluation.series())
    assert "per_input" not in frame and {"accuracy_low", "accuracy_high", "prediction_error"} <= set(frame)
    with pytest.raises(RltrError, match="holds something else"):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("mine")
        rltr.evaluate(run_of_photos, out=tmp_path / "mine", **MEASURED)


class Counter(BaseCallback):
    """A user's callback, which ends the training after a number of batches."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.batches = most, 0

    def _on_step(self) -> bool:
        return self.batches < self.most

    def _on_rollout_end(self) -> None:
        self.batches += 1
        self.logger.record("mine/batches", self.batches)


def test_callbacks_of_the_user(folder: Path, tmp_path: Path) -> None:
    counter = Counter(most=10)
    run = rltr.train(recipe=recipe(folder, tmp_path / "run"), callbacks=[counter])
    assert counter.batches == 2 and [row["mine/batches"] for row in run.history()] == [1, 2]
    early = Counter(most=1)
    run = rltr.train(recipe=recipe(folder, tmp_path / "early"), callbacks=[early])
    assert early.batches == 1 and run.policy.calibration and (tmp_path / "early" / POLICY_FOLDER).is_dir()


def test_settings_by_their_own_names() -> None:
    found = by_own_name({"rollouts": 5, "learner.batch": 4, "cost": {"kind": "flops"}, "nonsense": 1})
    assert found == {"learner.rollouts": 5, "learner.batch": 4, "cost": {"kind": "flops"}, "nonsense": 1}
    with pytest.raises(RltrError, match=r"several groups have a setting 'kind'; say which: data=\{'kind'.*cost=\{"):
        by_own_name({"kind": "flops"})
    with pytest.raises(RltrError, match=r"learner.seed is given twice"):
        by_own_name({"seed": 1, "learner.seed": 2})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rollout": 5}, "unknown key 'rollout'; did you mean 'learner.rollouts'"),
    ({"rollouts": 0}, "learner.rollouts is 0"),
    ({"recipe": "nothing.yaml"}, "no such file"),
    ({"model": "my-vit"}, "there is no data for model 'my-vit'"),
    ({"resume": True, "recipe": "demo"}, "run's own recipe"),
    ({"resume": True}, "nothing to resume"),
    ({"report_to": ["wandb", "wandb"]}, "must name each once"),
    ({"report_to": ["paper"]}, "report_to"),
    ({"report_to": "paper"}, "report_to"),
    ({"callbacks": [object()]}, "callbacks must be subclasses of stable-baselines3's BaseCallback.*one is a object"),
    (
        {"callbacks": lambda: True},
        "callbacks must be subclasses of stable-baselines3's BaseCallback.*one is a function",
    ),
    ({"model": 5}, "model must be a folder.*is a int"),
    ({"learner": 5}, "must be a group of fields"),
]


@pytest.mark.parametrize(
    ("given", "said"), REFUSED, ids=[f"{i}-{'-'.join(REFUSED[i][0])}" for i in range(len(REFUSED))]
)
def test_mistakes_are_refused_before_anything_is_written(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RltrError, match=said):
        rltr.train(out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_ready_is_refused(model: PreTrainedModel, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RltrError, match=r"training mode.*model.eval\(\)"):
        rltr.train(model.train(), folder / "photos", out=tmp_path / "run")
    model.eval().to("meta")
    with pytest.raises(RltrError, match=r"the model is on meta, but device='cpu'"):
        rltr.train(model, folder / "photos", out=tmp_path / "run", device="cpu")


def test_what_is_no_policy_and_no_run(tmp_path: Path) -> None:
    with pytest.raises(RltrError, match="is not a policy folder"):
        rltr.evaluate(tmp_path / "nothing")
    for odd in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RltrError, match="is not a run's folder, because recipe.yaml is missing"):
            rltr.Run.open(odd)


def test_the_embedded_model_in_memory_has_its_data(tmp_path: Path) -> None:
    few = {"train_limit": 16, "validation_limit": 16, "rollouts": 8, "batch": 8}
    run = rltr.train(load_model("embedded"), out=tmp_path / "run", **{**TWO_UPDATES, **few})
    assert run.recipe.model.source == run.recipe.data.source == "embedded"


def test_an_attached_model_is_refused(model: PreTrainedModel, run_of_photos: "rltr.Run", folder: Path) -> None:
    with (
        rltr.attach(model, run_of_photos.policy, cost_weight=1.0),
        pytest.raises(RltrError, match="a policy is attached to this model"),
    ):
        rltr.evaluate(run_of_photos, model, folder / "photos", **MEASURED)


def test_data_frames(folder: Path) -> None:
    bert = load_model(str(folder / "bert"))
    frame = pandas.read_csv(folder / "reviews.csv")
    frame.index = frame.index[::-1]
    whole, read = (
        rltr.load_task(bert, frame),
        rltr.load_task(bert, datasets.Dataset.from_csv(str(folder / "reviews.csv"))),
    )
    assert torch.equal(whole.test.labels, read.test.labels) and len(whole.train) + len(whole.test) < len(frame)
    split = rltr.load_task(bert, {"train": frame[:20], "validation": frame[20:25], "test": frame[25:]})
    assert [len(part) for part in (split.train, split.validation, split.test)] == [20, 5, 5]
    with pytest.raises(RltrError, match="there is no column 'text'; there are 'label'"):
        rltr.load_task(bert, frame[["label"]])


def test_packages_and_functions_share_a_name() -> None:
    assert list(inspect.signature(rltr.train).parameters)[:2] == ["model", "data"]
    assert list(inspect.signature(rltr.evaluate).parameters)[:3] == ["policy", "model", "data"]
    code = "import rltr.train.token_ppo, rltr; assert callable(rltr.train); rltr.train.token_ppo, rltr.evaluate.measure"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_messages_are_logged(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rltr")
    rltr.train(recipe=recipe(folder, tmp_path / "run"))
    assert any("training on 12 inputs, 16 rollouts" in record.getMessage() for record in caplog.records)
