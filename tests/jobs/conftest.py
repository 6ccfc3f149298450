"""What a user has: tiny models, data for them, and a finished training."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from rltr.evaluate.sweep import calibrate
from rltr.jobs.training import run_train
from rltr.recipe import Recipe, load_recipe
from rltr.train.cost_model import make_cost
from tests.clocks import Machine, clock_of

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}


CLASSES: dict[str, Any] = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "poor", "film", "very", "not"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has: ``vit`` and ``photos``, ``bert`` and ``reviews.csv``."""
    folder = tmp_path_factory.mktemp("user")
    torch.manual_seed(0)
    vit = ViTConfig(**SMALL, **CLASSES, image_size=16, patch_size=4)
    ViTForImageClassification(vit).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / "vit")
    generator = np.random.default_rng(0)
    for name, brightness in (("dark", 60), ("light", 190)):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = (brightness + generator.integers(-60, 60, (16, 16, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
    bert = BertConfig(**SMALL, **CLASSES, vocab_size=len(WORDS), max_position_embeddings=24)
    BertForSequenceClassification(bert).save_pretrained(folder / "bert")
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder / "bert")
    lines = ["text,label"]
    for i in range(30):
        words = generator.choice(WORDS[5:], 2 + i % 7)
        lines.append(f"{' '.join(words)},{('dark', 'light')[i % 2]}")
    (folder / "reviews.csv").write_text("\n".join(lines) + "\n")
    return folder


def recipe(folder: Path, out: Path, kind: str = "image", **changes: Any) -> Recipe:
    """Two updates of eight rollouts."""
    model, data = ("vit", "photos") if kind == "image" else ("bert", "reviews.csv")
    values = {
        "model.source": str(folder / model),
        "data.source": str(folder / data),
        "cost.kind": "flops",
        "cost.batch_size": 4,
        "learner.rollouts": 16,
        "learner.batch": 8,
        "learner.checkpoint_every": 1,
        "policy.width": 8,
        "evaluation.cost_weights": [0.05, 2.0],
        "evaluation.keep_rates": [0.5],
        "evaluation.methods": ["random"],
        "evaluation.repeats": 1,
        "evaluation.batch_size": 8,
        "evaluation.gallery": 1,
        "device": "cpu",
        "threads": 1,
        "out": out,
        "data.fractions": (0.5, 0.25, 0.25),
    }
    return load_recipe(None, (), {**values, **changes})


@pytest.fixture
def made_up_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices and calibrations are measured on a machine whose times are always the same, however busy this one is."""

    def prices(*args: Any) -> Any:
        with Machine() as machine:
            return make_cost(*args, clock_of(machine))

    def calibration(*args: Any) -> Any:
        timed: Any = calibrate
        with Machine() as machine:
            return timed(*args, clock=machine)

    monkeypatch.setattr("rltr.train.run.make_cost", prices)
    monkeypatch.setattr("rltr.train.run.calibrate", calibration)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="session")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on images."""
    return run_train(recipe(folder, tmp_path_factory.mktemp("run"))).folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
