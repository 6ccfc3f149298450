"""Tiny classifiers with their processors, saved where a user would have them, and data in folders and files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from rltr.tasks import Examples, Task
from rltr.tasks.examples.base import Subset

SMALL: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "poor", "film", "un", "##fine"]


def head(names: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def vit(folder: Path, names: list[str], channels: int = 3) -> PreTrainedModel:
    config = ViTConfig(**SMALL, **head(names), image_size=8, patch_size=4, num_channels=channels)
    ViTForImageClassification(config).save_pretrained(folder)
    statistics: dict[str, Any] = {"image_mean": [0.5] * channels, "image_std": [0.25] * channels}
    ViTImageProcessorPil(size={"height": 8, "width": 8}, **statistics).save_pretrained(folder)
    return ViTForImageClassification.from_pretrained(folder).eval()


def bert(folder: Path, names: list[str], longest: int = 8) -> PreTrainedModel:
    config = BertConfig(**SMALL, **head(names), vocab_size=len(WORDS), max_position_embeddings=longest)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer(folder).save_pretrained(folder)
    return BertForSequenceClassification.from_pretrained(folder).eval()


def tokenizer(folder: Path) -> BertTokenizer:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})


def paint(path: Path, grey: int = 100, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for name, grey in (("cat", 50), ("dog", 200)):
        for i in range(10):
            paint(tmp_path / "data" / name / f"{i}.png", grey + i)
    return tmp_path / "data"


def whole_of(task: Task) -> Examples:
    """What a task was divided from."""
    assert isinstance(task.train, Subset)
    return task.train.examples


def find(task: Task, name: str) -> tuple[Examples, int]:
    return next((s, s.names.index(name)) for s in (task.train, task.validation, task.test) if name in s.names)


def damage(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-100])


def no_image(path: Path) -> None:
    path.write_text("hello")


REVIEWS = [("a fine film", "good"), ("a poor film", "bad")] * 10


def write(path: Path, rows: list[tuple[str, str]] | list[dict], header: str = "text,label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [header.replace(",", separator), *(separator.join(row) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path
