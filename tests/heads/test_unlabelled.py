"""Heads without labels: the dense model's own decisions count as right."""

import json
from pathlib import Path

import pytest
import torch

from rltr.errors import RltrError
from rltr.jobs import run_train
from rltr.loading import load_model
from rltr.preparation import prepare
from rltr.recipe import load_recipe
from rltr.tasks import DataOptions, load_task
from rltr.tasks.goals import Consistency, MultiLabel, Regression, TokenClassification
from tests.heads.conftest import recipe

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
BLIND = DataOptions((0.5, 0.25, 0.25), labels="none")


def test_each_head_keeps_its_own_goal(folder: Path) -> None:
    goals = {}
    for name in ("topics", "tagger", "rater"):
        task = load_task(load_model(str(folder / name)), folder / "plain.txt", options=BLIND)
        assert isinstance(task.train.goal, Consistency) and task.train.goal == task.test.goal
        goals[name] = task.train.goal.goal
        assert (
            task.train.classes
            == {"topics": ["food", "travel"], "tagger": ["O", "NAME", "PLACE"], "rater": ["LABEL_0"]}[name]
        )
    assert isinstance(goals["topics"], MultiLabel) and goals["tagger"] == TokenClassification(8)
    # In units of the model's own answers: constant ones have none.
    assert isinstance(goals["rater"], Regression) and goals["rater"].deviation != 1 != goals["rater"].spread


def test_labels_beside_the_texts_are_not_read(folder: Path, tmp_path: Path) -> None:
    texts = [{"text": f"ann likes tea in {i}", "label": "nobody knows"} for i in range(12)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, texts)))
    model = load_model(str(folder / "topics"))
    with pytest.raises(RltrError, match="nobody knows"):
        load_task(model, tmp_path / "x.jsonl")
    assert load_task(model, tmp_path / "x.jsonl", options=BLIND).train.labels.numel() == 0


def test_a_table_without_labels(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": ["ann likes tea", "bob lives in rome"] * 6})
    task = load_task(load_model(str(folder / "topics")), table, options=BLIND, source=str(folder / "topics"))
    assert task.kind == "text" and len(task.train) == 6 and isinstance(task.train.goal, Consistency)


def test_what_needs_labels_says_so(folder: Path) -> None:
    with pytest.raises(RltrError, match="zero-shot tasks need labels, which say what the classes are called"):
        load_task(load_model(str(folder / "clip"), "zero-shot"), folder / "drinks", options=BLIND)
    with pytest.raises(RltrError, match="need labels; give the model's own answers"):
        load_task(load_model(str(folder / "topics")), {"input_ids": torch.ones(9, 4).long()}, options=BLIND)


def test_the_same_answers_are_cached_with_and_without_labels(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLTR_CACHE", str(tmp_path / "cache"))
    values = recipe(folder, tmp_path / "run", "numbers").model_dump(mode="json")
    run_train(load_recipe(values))
    entries = sorted((tmp_path / "cache" / "dense").iterdir())
    values["data"]["labels"], values["out"] = "none", str(tmp_path / "other")
    run_train(load_recipe(values))
    assert sorted((tmp_path / "cache" / "dense").iterdir()) == entries


def test_embedded_data_without_their_labels() -> None:
    _, task = prepare(load_recipe({"data": {"labels": "none", "test_limit": 8}, "device": "cpu"}))
    assert all(isinstance(split.goal, Consistency) for split in (task.train, task.validation, task.test))
