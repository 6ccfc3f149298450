"""Tiny models without a network, and the same few reviews and photos for every kind of source."""

import io
from pathlib import Path
from typing import Any

import datasets
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

from rltr.tasks import DataOptions, Task

SMALL: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "poor", "film"]


LONGEST = 8


HALVES = DataOptions(fractions=(0.5, 0.25, 0.25))


def head(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(**SMALL, **head("bad", "good"), vocab_size=len(WORDS), max_position_embeddings=LONGEST)
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return BertForSequenceClassification.from_pretrained(folder).eval()


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("vit")
    ViTForImageClassification(ViTConfig(**SMALL, **head("dark", "light"), image_size=8, patch_size=4)).save_pretrained(
        folder
    )
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return ViTForImageClassification.from_pretrained(folder).eval()


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def splits(task: Task) -> list[Any]:
    return [task.train, task.validation, task.test]


def sizes(task: Task) -> list[int]:
    return [len(split) for split in splits(task)]


def reviews(rows: int = 20, names: list[str] | None = None) -> datasets.Dataset:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names or ["bad", "good"])}
    )
    texts = [f"a {('poor', 'fine')[i % 2]} film" for i in range(rows)]
    return datasets.Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(rows)]}, features=features)


def photo(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(stream, "PNG")
    return stream.getvalue()


def photos(rows: int = 20) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    images = [{"bytes": photo((50, 200)[i % 2] + i), "path": None} for i in range(rows)]
    return datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(rows)]}, features=features)
