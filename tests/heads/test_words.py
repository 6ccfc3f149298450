"""One class per word."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rltr.check.parity import random_examples
from rltr.dense import DenseAnswers, DenseCache
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.selectors.random import RandomChoice
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks import DataOptions, load_task
from rltr.tasks.examples.base import Subset
from rltr.tasks.examples.words import TokenExamples
from rltr.tasks.goals import TokenClassification
from rltr.tasks.goals.token_classes import UNLABELLED
from rltr.tasks.models import load_model
from tests.conftest import logged_warnings

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


def test_only_the_first_token_of_a_word_has_its_class(folder: Path) -> None:
    model = load_model(str(folder / "tagger"))
    options = DataOptions((0.5, 0.25, 0.25), text_column="tokens", label_column="tags")
    examples = load_task(model, folder / "tagged.jsonl", options=options).train
    by_name = {name: i for i, name in enumerate(examples.names)}
    row = by_name["bob likes red-ish tea"]
    assert examples.words(row) == ["[CLS]", "bob", "likes", "red", "##[UNK]", "##[UNK]", "tea", "[SEP]"]
    no = UNLABELLED
    assert examples.labels[row].tolist() == [no, 1, 0, no, no, no, 0, no]
    lengths = examples.lengths()
    assert lengths is not None and lengths[row] == 8
    batch = examples.batch([row, by_name["tea"]])
    assert batch["input_ids"].shape == (2, 8) and batch["attention_mask"].sum(1).tolist() == [8, 3]
    assert examples.labels.shape[1] == 8


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,label\n", "is not a .jsonl"),
        ("x.jsonl", "", "no records"),
        (
            "x.jsonl",
            '{"words": ["a"], "label": [0]}',
            "there is no column 'text'; there are 'words', 'label'.*data.text_column",
        ),
        ("x.jsonl", '{"text": "ann", "label": [0]}', "list of strings"),
        ("x.jsonl", '{"text": ["ann"], "label": [0.5]}', "list of strings or whole numbers"),
        ("x.jsonl", '{"text": ["ann", "lives"], "label": [0]}', "2 words but 1 labels"),
        ("x.jsonl", '{"text": ["ann"], "label": ["ANIMAL"]}', r"\(ANIMAL\) do not fit"),
        (
            "x.jsonl",
            '{"text": ["ann"], "label": [-100]}\n' + '{"text": ["ann"], "label": ["O"]}',
            "line 1: no labelled word",
        ),
        (
            "x.jsonl",
            json.dumps({"text": ["ann"] * 20, "label": [-100] * 15 + ["O"] * 5}),
            "line 1: no labelled word is left.* 16",
        ),
    ],
)
def test_words_with_invalid_labels_are_refused(
    folder: Path, tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RltrError, match=said):
        load_task(load_model(str(folder / "tagger")), tmp_path / name)


def test_a_tokenizer_that_pads_at_the_start_does_not_move_labels(folder: Path, tmp_path: Path) -> None:
    """As most decoders' tokenizers do. Cached answers are computed from single rows, without padding."""
    backbone = Backbone(load_model(str(folder / "decoder")))
    options = DataOptions((0.5, 0.25, 0.25), text_column="tokens", label_column="tags")
    examples = load_task(backbone.model, folder / "tagged.jsonl", options=options).train
    assert isinstance(examples, Subset) and isinstance(examples.examples, TokenExamples)
    assert examples.examples.tokenizer.padding_side == "left"
    batch, lengths = examples.batch(range(len(examples))), examples.lengths()
    assert lengths is not None and len(set(lengths)) > 1
    assert torch.equal(batch["attention_mask"] > 0, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
    alone = DenseAnswers(backbone, examples, cache=DenseCache(2**20, tmp_path))(torch.arange(len(examples)))
    with torch.no_grad():
        together = examples.goal.read(backbone.model(**batch), batch)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    examples.goal.check(alone, together, examples.labels)


def test_cut_sentences_give_one_warning(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["tea"] * 30
    records = [{"text": words, "label": ["O"] * len(words)}, {"text": ["ann"], "label": ["NAME"]}] * 6
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    load_task(load_model(str(folder / "tagger")), tmp_path / "x.jsonl")
    assert logged_warnings(caplog) == ["texts are cut to 16 tokens; one has 32"]


def test_a_folder_without_sentences_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RltrError, match=r"holds no train, validation and test file \(\.jsonl\)"):
        load_task(load_model(str(folder / "tagger")), tmp_path)


@pytest.mark.parametrize("removal", ["merge", "drop"])
def test_removed_words_get_the_class_of_their_representative(folder: Path, removal: Any) -> None:
    model: Any = load_model(str(folder / "tagger"))
    backbone = Backbone(model)
    inputs = random_examples(backbone, 4, 9).batch(range(4))
    goal = TokenClassification(9)
    with backbone.attached(), torch.no_grad():
        output, trace = ReducedModel(backbone, RandomChoice(0.5), [0], removal)(inputs)
    answers, (before, after) = goal.read(output, inputs), trace.present
    assert bool((before & ~after).any())
    for said, there, left in zip(answers, before, after, strict=True):
        remaining = {tuple(logits.tolist()) for logits in said[left]}
        assert all(tuple(logits.tolist()) in remaining for logits in said[there])
