"""Texts in CSV and JSON lines: how they are divided, cut and padded, and what is refused."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import BertTokenizer, RobertaConfig, RobertaForSequenceClassification, RobertaTokenizer

from rltr.errors import RltrError
from rltr.evaluate.points import View
from rltr.report.gallery import text_panels
from rltr.tasks import DataOptions, load_task
from rltr.tasks.examples.texts import TextExamples
from rltr.tasks.examples.tokenizer import longest_text
from tests.tasks.conftest import REVIEWS, SMALL, WORDS, bert, find, tokenizer, whole_of, write


def test_a_csv_is_read_and_divided(tmp_path: Path) -> None:
    model = bert(tmp_path / "model", ["BAD", "GOOD"])
    data = write(tmp_path / "reviews.csv", [*REVIEWS, ('"fine, ""fine"" film"', "good")])
    task = load_task(model, data)
    assert task.kind == "text" and task.train.classes == ["BAD", "GOOD"]
    splits = (task.train, task.validation, task.test)
    assert sum(len(split) for split in splits) == 21
    for split in splits:
        assert [name == "a poor film" for name in split.names] == (split.labels == 0).tolist()
        assert model(**split.batch(range(len(split)))).logits.shape == (len(split), 2)
    split, i = find(task, 'fine, "fine" film')
    assert split.words(i) == ["[CLS]", "fine", "[UNK]", "[UNK]", "fine", "[UNK]", "film", "[SEP]"]
    assert split.picture(i) is None


def test_pieces_of_words_are_told_from_words_in_byte_level_bpe() -> None:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet()), "un", "Ġun", "be"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    merges: Any = [("u", "n"), ("Ġ", "un"), ("b", "e")]
    own = RobertaTokenizer(vocab=vocab, merges=merges)
    texts = ["unbe unbe", "unbe", "be, un"]
    examples = TextExamples(texts, torch.zeros(3, dtype=torch.long), ["a"], own, None)
    assert examples.words(0) == ["<s>", "un", "##be", "un", "##be", "</s>"]
    assert examples.words(1) == ["<s>", "un", "##be", "</s>"]
    assert examples.words(2) == ["<s>", "be", "##,", "un", "</s>"]
    view = View("policy", "merge", 0.2, None, 0.0, [], ["1" * 6])
    (shown,) = text_panels(examples.words(0), view)
    assert re.sub("<[^>]*>", "", shown) == "&lt;s&gt; unbe unbe &lt;/s&gt;"


def test_rows_are_padded_to_the_longest_and_cut_to_what_the_model_takes(tmp_path: Path) -> None:
    data = write(tmp_path / "data.csv", [("fine", "0"), ("a fine film", "1"), ("film " * 50, "1")] * 9)
    whole = whole_of(load_task(bert(tmp_path / "model", ["no", "yes"], longest=8), data))
    batch = whole.batch([0, 1])
    assert batch["input_ids"].shape == (2, 5)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert whole.batch([0])["input_ids"].shape == (1, 3)
    assert whole.batch([2])["input_ids"].shape == (1, 8)
    assert whole.words(2) == ["[CLS]", *["film"] * 6, "[SEP]"]
    assert whole.longest() == 2 and whole.subset([3, 0, 4, 1]).longest() in (2, 3)
    assert whole.subset([3, 0, 5, 1]).longest() == 2 and whole.subset([0]).lengths() == [3]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_folder_of_splits_with_columns_of_other_names(tmp_path: Path, suffix: str) -> None:
    splits = {"train": REVIEWS, "val": REVIEWS[:3], "test": REVIEWS[:2]}
    for split, rows in splits.items():
        records = [{"review": text, "stars": int(label == "good")} for text, label in rows]
        lines = [(text, str(int(label == "good"))) for text, label in rows]
        write(tmp_path / "data" / f"{split}{suffix}", records if suffix == ".jsonl" else lines, "review,stars")
    options = DataOptions(text_column="review", label_column="stars")
    task = load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / "data", options=options)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [20, 3, 2]
    assert task.test.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,label\na film,good\n ,bad\n", r"line 3: 'text' is empty"),
        ("x.csv", "text,label\na film,\n", r"line 2: 'label' is empty"),
        ("x.csv", "sentence,label\na film,good\n", r"no column 'text'; there are 'sentence', 'label'"),
        ("x.csv", "text,label\na film,good,3\n", r"line 2: the number of fields differs"),
        ("x.csv", "text,label\na film\n", r"line 2: the number of fields differs"),
        ("x.csv", "text,label\n", r"has no records"),
        ("x.csv", "", r"has no records"),
        ("x.csv", 'text,label\n"a film"s,good\n', r"line 2: .*damaged"),
        ("x.csv", "text,label\na film,good\na film,dull\n", r"2 classes \(dull, good\) do not fit the model's 2"),
        ("x.jsonl", '{"text": "a", "label": "good"}\n{"text": "a"\n', r"line 2: invalid JSON"),
        ("x.jsonl", "[1]\n", r"line 1: every line must be a JSON object"),
        ("x.jsonl", '{"text": "a", "label": 0.5}\n', r"classes \(0\.5\) do not fit the model's 2"),
        ("x.jsonl", '{"text": "a", "label": []}\n', r"1 classes \(\) do not fit the model's 2"),
        ("x.jsonl", '{"text": null, "label": 0}\n', r"'text' must be a string or a number, not null"),
        ("x.txt", "", r"reads \.csv, \.tsv, \.jsonl"),
    ],
)
def test_a_bad_text_file_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RltrError, match=said):
        load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / name)


def test_a_long_text_is_no_damage(tmp_path: Path) -> None:
    csv.field_size_limit(131_072)  # as Python starts with
    data = write(tmp_path / "x.csv", [*REVIEWS, ("film " * 40_000, "good")])
    whole = whole_of(load_task(bert(tmp_path / "model", ["bad", "good"]), data))
    assert len(whole) == 21 and whole.batch([20])["input_ids"].shape == (1, 8)


def test_a_text_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("text,label\ncafé,good\n".encode("latin-1"))
    with pytest.raises(RltrError, match="not UTF-8"):
        load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / "x.csv")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", REVIEWS, "\ufefftext,label")
    assert len(load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / "x.csv").train) == 16


def test_a_missing_tokenizer_or_padding_token_is_said(tmp_path: Path) -> None:
    data = write(tmp_path / "x.csv", REVIEWS)
    model = bert(tmp_path / "model", ["bad", "good"])
    without = tokenizer(tmp_path)
    without.pad_token = None
    without.save_pretrained(tmp_path / "model")
    with pytest.raises(RltrError, match="no padding token"):
        load_task(model, data)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(RltrError, match=r"tokenizer could not be loaded .*tokenizer\.json") as error:
        load_task(model, data)
    assert "\n" not in str(error.value)
    for path in [*(tmp_path / "model").glob("*token*"), tmp_path / "model" / "vocab.txt"]:
        path.unlink()
    with pytest.raises(RltrError, match="knows no words"):
        load_task(model, data)
    BertTokenizer(vocab={str(i): i for i in range(20)} | {"[UNK]": 20}).save_pretrained(tmp_path / "model")
    with pytest.raises(RltrError, match="tokens but the model only 11"):
        load_task(model, data)


def test_positions_that_start_after_the_padding_index_are_not_promised_twice(tmp_path: Path) -> None:
    config = RobertaConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=10, pad_token_id=1)
    model = RobertaForSequenceClassification(config)
    longest = longest_text(model, tokenizer(tmp_path))
    assert longest == 8
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))
