"""Heads without labels: the dense model's own decisions count as right."""

import json
from pathlib import Path

import pytest
import torch
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

from rltr.dense import DenseAnswers
from rltr.dense.cache import DenseCache, dense_key
from rltr.errors import RltrError
from rltr.jobs.evaluation import run_evaluate
from rltr.jobs.preparation import prepare
from rltr.jobs.training import run_train
from rltr.recipe import load_recipe
from rltr.runtime.backbone import Backbone
from rltr.system.folders import POLICY_FOLDER
from rltr.tasks import DataOptions, load_task
from rltr.tasks.goals import Classification, Consistency, MultiLabel, Regression, TokenClassification
from rltr.tasks.goals.heads import goal_of
from rltr.tasks.models import load_model
from tests.heads.conftest import VISION, recipe

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
WITHOUT_LABELS = DataOptions((0.5, 0.25, 0.25), labels="none")


def test_each_head_keeps_its_own_goal(folder: Path) -> None:
    goals = {}
    for name in ("topics", "tagger", "rater"):
        task = load_task(load_model(str(folder / name)), folder / "plain.txt", options=WITHOUT_LABELS)
        assert isinstance(task.train.goal, Consistency) and task.train.goal == task.test.goal
        goals[name] = task.train.goal.goal
        assert task.train.classes == {"topics": ["food", "travel"], "tagger": ["O", "NAME", "PLACE"], "rater": []}[name]
    assert isinstance(goals["topics"], MultiLabel) and goals["tagger"] == TokenClassification(8)
    # Deviation and spread are those of the model's answers, not the default 1.
    assert isinstance(goals["rater"], Regression) and goals["rater"].deviation != 1 != goals["rater"].spread


def test_labels_beside_the_texts_are_not_read(folder: Path, tmp_path: Path) -> None:
    texts = [{"text": f"ann likes tea in {i}", "label": "nobody knows"} for i in range(12)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, texts)))
    model = load_model(str(folder / "topics"))
    with pytest.raises(RltrError, match="nobody knows"):
        load_task(model, tmp_path / "x.jsonl")
    assert load_task(model, tmp_path / "x.jsonl", options=WITHOUT_LABELS).train.labels.numel() == 0


def test_a_table_without_labels_is_read(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": ["ann likes tea", "bob lives in rome"] * 6})
    task = load_task(load_model(str(folder / "topics")), table, options=WITHOUT_LABELS, source=str(folder / "topics"))
    assert task.kind == "text" and len(task.train) == 6 and isinstance(task.train.goal, Consistency)


def test_tasks_that_need_labels_are_refused_without_them(folder: Path) -> None:
    with pytest.raises(RltrError, match="zero-shot tasks need labels, because they hold the class names"):
        load_task(load_model(str(folder / "clip"), "zero-shot"), folder / "drinks", options=WITHOUT_LABELS)
    with pytest.raises(RltrError, match="need labels.* use the model's own outputs"):
        load_task(load_model(str(folder / "topics")), {"input_ids": torch.ones(9, 4).long()}, options=WITHOUT_LABELS)


def test_the_same_answers_are_cached_with_and_without_labels(folder: Path, tmp_path: Path) -> None:
    """The splits are the same, because numbers are not split class by class."""
    backbone = Backbone(load_model(str(folder / "rater")))
    with_labels = DataOptions((0.5, 0.25, 0.25), label_column="stars")
    tasks = [
        load_task(backbone.model, folder / "rated.csv", options=options) for options in (with_labels, WITHOUT_LABELS)
    ]
    first, second = (dense_key(backbone, task.train, 32) for task in tasks)
    assert first is not None and first == second


def test_padding_at_the_start_does_not_move_answers(folder: Path, tmp_path: Path) -> None:
    """As with labels. Cached answers are computed from single texts, without padding."""
    backbone = Backbone(load_model(str(folder / "decoder")))
    examples = load_task(backbone.model, folder / "plain.txt", options=WITHOUT_LABELS).train
    batch, lengths = examples.batch(range(len(examples))), examples.lengths()
    assert lengths is not None and len(set(lengths)) > 1
    alone = DenseAnswers(backbone, examples, cache=DenseCache(2**20, tmp_path))(torch.arange(len(examples)))
    with torch.no_grad():
        together = examples.goal.read(backbone.model(**batch), batch)
    examples.goal.check(alone, together, examples.labels)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_embedded_data_can_be_read_without_labels() -> None:
    _, task = prepare(load_recipe({"data": {"labels": "none", "test_limit": 8}, "device": "cpu"}))
    for split in (task.train, task.validation, task.test):
        assert isinstance(split.goal, Consistency) and split.labels.shape == (len(split), 0)
        assert split.goal.shape(split.labels, split.classes) == (10,)
        assert split.goal.say(split.labels[0], split.classes) is None


def test_evaluating_on_other_splits_than_in_training_gives_a_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blind, seeing = recipe(folder, tmp_path / "run", "texts without labels"), recipe(folder, tmp_path, "several labels")
    run = run_train(blind).folder
    for number, (wanted, said) in enumerate([(blind, 0), (seeing, 1)]):
        run_evaluate(run / POLICY_FOLDER, wanted.model_copy(update={"out": tmp_path / f"measured-{number}"}))
        assert (
            sum("data.labels differs from that of the training" in one.getMessage() for one in caplog.records) == said
        )


@pytest.mark.parametrize(
    ("model", "data"), [("topics", "plain.txt"), ("topics", "rated.csv"), ("guesser", "drinks/red_tea")]
)
def test_missing_labels_are_refused_with_the_option_to_learn_without(folder: Path, model: str, data: str) -> None:
    with pytest.raises(RltrError, match="learn without labels: data.labels=none"):
        load_task(load_model(str(folder / model)), folder / data)


def test_distilled_deit_has_a_classifier() -> None:
    config = DeiTConfig(**VISION, num_labels=3)
    assert isinstance(goal_of(DeiTForImageClassificationWithTeacher(config), 17), Classification)
