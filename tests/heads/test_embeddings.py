"""Embeddings: pooled over the remaining tokens, and compared by their similarities."""

from pathlib import Path

import pytest
import torch
from transformers import BertModel

import rltr
from rltr.errors import RltrError
from rltr.jobs.training import run_train
from rltr.recipe import load_recipe
from rltr.runtime.backbone import Backbone
from rltr.system.folders import POLICY_FOLDER
from rltr.tasks import load_task
from rltr.tasks.examples.base import Subset
from rltr.tasks.examples.texts import TextExamples
from rltr.tasks.models import load_model
from tests.heads.conftest import bert, recipe

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


def test_the_kind_embedding_must_be_chosen_explicitly(folder: Path) -> None:
    with pytest.raises(RltrError, match="data.kind=embedding"):
        load_model(str(folder / "embedder"))
    with pytest.raises(RltrError, match="name the kind of task with kind, embedding"):
        load_task(BertModel.from_pretrained(folder / "embedder"), folder / "plain.txt")
    with pytest.raises(RltrError, match="takes tokens inputs, but the data is of kind 'text'"):
        load_model(str(folder / "tagger"), "text")
    assert type(load_model(str(folder / "tagger"), "embedding")) is BertModel


def test_a_pooler_without_stored_weights_is_left_out(folder: Path, tmp_path: Path) -> None:
    BertModel(bert(), add_pooling_layer=False).save_pretrained(tmp_path)
    prints = {Backbone(load_model(str(tmp_path), "embedding")).fingerprint for _ in "ab"}
    assert len(prints) == 1


@pytest.mark.parametrize("removal", ["merge", "drop"])
def test_an_attached_model_pools_as_in_training(folder: Path, tmp_path: Path, removal: str) -> None:
    wanted = recipe(folder, tmp_path / "run", "embeddings").model_dump(mode="json")
    run = run_train(load_recipe(wanted, (), {"reduction.removal": removal})).folder
    model = load_model(str(folder / "embedder"), "embedding")
    task = load_task(model, folder / "plain.txt", kind="embedding")
    inputs = task.test.batch(range(len(task.test)))
    with torch.no_grad(), rltr.attach(model, run / POLICY_FOLDER, cost_weight=8.0) as attached:
        none_yet = attached.kept
        states = model(**inputs).last_hidden_state
        kept = attached.kept
        assert kept is not None and kept.total < int(inputs["attention_mask"].sum())
    assert none_yet is None
    with torch.no_grad(), attached.reduced_model.backbone.attached():
        output, trace = attached.reduced_model(inputs)
    assert torch.equal(states, output["last_hidden_state"]) and torch.equal(kept.row, trace.stages[-1].row)
    pooled = task.test.goal.read(output, inputs)
    mask = inputs["attention_mask"][..., None]
    torch.testing.assert_close(pooled, (states * mask).sum(1) / mask.sum(1))
    if removal == "drop":
        return
    by_hand = []
    for row in range(len(kept.counts)):
        mine = kept.row == row
        assert kept.size is not None
        size = kept.size[mine, None]
        by_hand.append((states[row, kept.position[mine]] * size).sum(0) / size.sum())
    torch.testing.assert_close(pooled, torch.stack(by_hand))


def test_every_line_is_one_text(folder: Path, tmp_path: Path) -> None:
    texts = ["ann likes\u2028tea", "bob\x0clives\x1cin\x85rome", "red tea"]
    (tmp_path / "x.txt").write_bytes(("\ufeff" + "\r\n".join([texts[0], "", *texts[1:]] * 5)).encode())
    task = load_task(load_model(str(folder / "embedder"), "embedding"), tmp_path / "x.txt", kind="embedding")
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 15
    assert isinstance(task.train, Subset) and isinstance(task.train.examples, TextExamples)
    assert list(task.train.examples.texts[1:3]) == texts[1:]
    assert task.train.examples.places is not None and task.train.examples.places[1].endswith("line 3")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", b"\n\n", "no texts"),
        ("x.txt", b"caf\xe9\n", "not UTF-8"),
        ("x.csv", b"sentence\ntea\n", "no column 'text'"),
        ("x.md", b"tea\n", "cannot read .* as data"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(
    folder: Path, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    model = load_model(str(folder / "embedder"), "embedding")
    with pytest.raises(RltrError, match=said):
        load_task(model, tmp_path / name, kind="embedding")


def test_a_folder_without_images_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RltrError, match="no images in"):
        load_task(load_model(str(folder / "seer"), "embedding"), tmp_path, kind="embedding")
