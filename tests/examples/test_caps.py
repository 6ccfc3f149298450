"""The example that compares lengths of texts: its table and its figure."""

from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer

from rltr.tasks.examples.texts import TextExamples
from tests.examples.conftest import example


def test_the_time_at_an_accuracy_is_interpolated_on_the_pareto_front() -> None:
    time_at = example("caps").time_at
    curve = [(0.2, 0.80), (0.4, 0.90), (0.5, 0.85), (0.8, 0.92)]
    assert time_at(curve, 0.85) == pytest.approx(0.3)  # the point at 0.5 is dominated
    assert time_at(curve, 0.91) == pytest.approx(0.6)
    assert time_at(curve, 0.5) == 0.2 and time_at(curve, 0.92) == pytest.approx(0.8)
    assert time_at(curve, 0.93) is None and time_at([], 0.5) is None


def test_growth_compares_the_longest_with_the_shortest() -> None:
    rows = [
        {"native ms": 1.0, "packed": 1.0, "policy": 1.0, "baseline": 1.0},
        {"native ms": 10.0, "packed": 2.0, "policy": 4.0, "baseline": None},
    ]
    assert example("caps").growth(rows) == {"native": 10.0, "packed": 5.0, "policy": 2.5, "baseline": None}


def test_a_figure_is_drawn(tmp_path: Path) -> None:
    row = {"cap": 64, "native ms": 1.0, "packed": 1.0, "policy": 2.0, "lowest": 1.5, "highest": 3.0, "baseline": None}
    never = {**row, "cap": 512, "native ms": 9.0, "policy": None, "lowest": None, "highest": None}
    example("caps").draw([row, never], 0.01, tmp_path / "caps.png")
    assert (tmp_path / "caps.png").read_bytes().startswith(b"\x89PNG")


def test_truncation_keeps_labels_with_their_texts() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    texts = TextExamples(["a a", "a a a a", "a", "a a a"], torch.tensor([0, 1, 0, 1]), ["x", "y"], tokenizer, 6)
    truncate = example("caps").truncate
    assert truncate(texts, 4, None).batch(range(4))["attention_mask"].sum(1).tolist() == [4, 4, 3, 4]
    long = truncate(texts, 4, 5)  # two special tokens count
    assert long.texts == ["a a a a", "a a a"] and long.labels.tolist() == [1, 1]
    some = truncate(texts.subset([3, 1, 0]).subset([1, 2]), 4, None)
    assert some.texts == ["a a a a", "a a"] and some.labels.tolist() == [1, 0]
    with pytest.raises(SystemExit, match="no test text has 7 tokens"):
        truncate(texts, 7, 7)
