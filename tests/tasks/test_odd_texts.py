"""Texts and records as they should not be: named, and left out only if asked; blank lines are said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from rltr.errors import RltrError
from rltr.tasks import DataOptions, Task, load_task
from tests.tasks.conftest import REVIEWS, bert, write

SKIP = DataOptions(bad_inputs="skip")
RECORDS: list[dict[str, Any]] = [{"text": text, "label": label} for text, label in REVIEWS]


def size(task: Task) -> int:
    return sum(len(split) for split in (task.train, task.validation, task.test))


@pytest.mark.parametrize("half", ["\ud83d", "fine \udc00 film"])
@pytest.mark.parametrize("options", [{}, {"labels": "none"}])
def test_half_of_a_character_is_named_and_left_out_if_asked(
    tmp_path: Path, half: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = bert(tmp_path / "model", ["bad", "good"])
    data = write(tmp_path / "x.jsonl", [*RECORDS, {"text": half, "label": "bad"}])
    with pytest.raises(
        RltrError, match=r"x\.jsonl, line 21: 'text' contains half of a character.*data\.bad_inputs=skip"
    ):
        load_task(model, data, options=DataOptions(**options))
    task = load_task(model, data, options=DataOptions(bad_inputs="skip", **options))
    assert size(task) == 20 and "x.jsonl, line 21 cannot be tokenized (a lone surrogate" in caplog.text
    for split in (task.train, task.validation, task.test):
        assert len(split.lengths() or ()) == len(split.batch(range(len(split)))["input_ids"])
        assert split.fingerprint() is not None and "".join(split.names).encode()


def test_what_a_tokenizer_does_not_know_is_named_and_left_out_if_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A tokenizer without a token for unknown words refuses some texts, and says nothing of which."""
    model = bert(tmp_path / "model", ["bad", "good"])
    words = ["[PAD]", "a", "fine", "poor", "film"]
    own = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    own.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=own, pad_token="[PAD]").save_pretrained(tmp_path / "model")
    data = write(tmp_path / "x.csv", [*REVIEWS, ("a dull film", "bad")])
    task = load_task(model, data)
    with pytest.raises(RltrError, match=r"x\.csv, line 22 cannot be tokenized \(.*data\.bad_inputs=skip"):
        for split in (task.train, task.validation, task.test):
            split.lengths()
    task = load_task(model, data, options=SKIP)
    assert size(task) == 20 and "line 22 cannot be tokenized" in caplog.text
    assert {length for split in (task.train, task.validation, task.test) for length in split.lengths() or ()} == {3}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,label,text\na film,good,b\n", r"line 1: there are 2 columns called 'text'"),
        ("x.csv", "label,text,label\na,a film,b\n", r"line 1: there are 2 columns called 'label'"),
        ("x.tsv", "text\tlabel\ttext\na\tb\tc\n", r"line 1: there are 2 columns called 'text'"),
        ("x.jsonl", '{"text": "a", "label": 0}\n{"text": "a", "label": 0, "text": "b"}', r"line 2: .*called 'text'"),
        ("x.jsonl", '{"text": NaN, "label": "good"}\n', r"'text' must be a string"),
        ("x.jsonl", "[" * 100_000 + "\n", r"line 1: brackets are nested too deep"),
        (
            "x.jsonl",
            '{"text": "a", "label": true}\n',
            r"'label' must be a string .* list of them, not true",
        ),
        ("x.jsonl", '{"text": "a", "label": ["good|bad"]}\n', r"label 'good\|bad' contains '\|'"),
    ],
)
def test_records_that_say_two_things(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RltrError, match=said):
        load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / name)


def test_a_column_twice_that_nobody_reads_is_no_harm(tmp_path: Path) -> None:
    """Tables of Excel end with columns without a name."""
    data = tmp_path / "x.csv"
    data.write_text("text,label,,\n" + "".join(f"{text},{label},,\n" for text, label in REVIEWS))
    assert size(load_task(bert(tmp_path / "model", ["bad", "good"]), data)) == 20


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".txt", ".CSV", ".Jsonl", ".TXT"])
def test_blank_lines_are_said(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    separator = "\t" if suffix == ".tsv" else ","
    lines = [f"{text}{separator}{label}" for text, label in REVIEWS]
    if suffix.lower() == ".jsonl":
        lines = list(map(json.dumps, RECORDS))
    elif suffix.lower() != ".txt":
        lines = [f"text{separator}label", *lines]
    options = DataOptions(labels="none" if suffix.lower() == ".txt" else "read")
    model, data = bert(tmp_path / "model", ["bad", "good"]), tmp_path / f"x{suffix}"
    data.write_text("\n".join(lines) + "\n\n\n")
    assert size(load_task(model, data, options=options)) == 20 and "blank" not in caplog.text
    data.write_text("\n".join([*lines[:5], "", "", *lines[5:]]) + "\n\n\n")
    assert size(load_task(model, data, options=options)) == 20
    assert f"x{suffix}: skipped 2 blank lines (the first: line 6)" in caplog.text


def test_numbers_are_written_as_everybody_writes_them(tmp_path: Path) -> None:
    model = bert(tmp_path / "model", ["stars"])
    for label in ("1_000", "1 000", "1,5", "0x1", "on"):
        (tmp_path / "x.csv").write_text("text,label\n" + f'a film,"{label}"\na film,2\n')
        with pytest.raises(RltrError, match="is not a number"):
            load_task(model, tmp_path / "x.csv")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".npz"])
def test_files_in_a_folder_of_splits(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Hidden copies are ignored, and files without the name of a split are left out with a warning."""
    data = tmp_path / "data"
    ids: dict[str, Any] = {"input_ids": np.array([[2, 5, 3]] * 20), "label": np.arange(20) % 2}
    for name in ("train", "test", "extra", "._train", ".ipynb_checkpoints/train", "~$test"):
        path = data / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npz":
            np.savez(path, **ids)
        else:
            write(path, RECORDS if suffix == ".jsonl" else REVIEWS)
    task = load_task(bert(tmp_path / "model", ["bad", "good"]), data)
    assert size(task) == 40 and len(task.test) == 20
    assert f"left out, because no split has this name: extra{suffix}" in caplog.text


@pytest.mark.parametrize(
    ("content", "options", "said", "unsaid"),
    [
        ("review,label\na,b\n", {}, r"no column 'text'; .*name one of them with data\.text_column$", "labels=none"),
        (
            "text,stars\na,b\n",
            {},
            r"no column 'label'; .*data\.label_column, or .*data\.labels=none",
            "text_column",
        ),
        ("review,label\na,b\n", {"labels": "none"}, r"no column 'text'; .*data\.text_column$", "labels=none"),
    ],
)
def test_the_hint_fits_the_column(
    tmp_path: Path, content: str, options: dict[str, str], said: str, unsaid: str
) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(RltrError, match=said) as error:
        load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / "x.csv", options=DataOptions(**options))
    assert unsaid not in str(error.value)
