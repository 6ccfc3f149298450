"""Fixtures: a tiny image task and a tiny text task, each with a model, and environments on them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from rltr.envs import TokenSelectionVectorEnv
from rltr.runtime.backbone import Backbone
from rltr.tasks import TensorExamples

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
    "initializer_range": 0.5,
}


LAYERS = (1, 2)


TEXTS = [9, 4, 2, 7, 9, 3, 6, 5]
"""Number of tokens of each text, special tokens included."""


def image_model() -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=4, num_channels=1)).eval()


def images() -> TensorExamples:
    pixels = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return TensorExamples(torch.arange(8) % 3, [str(i) for i in range(8)], ["a", "b", "c"], {"pixel_values": pixels})


def text_model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL, vocab_size=30, max_position_embeddings=16)).eval()


def texts() -> TensorExamples:
    """Texts padded to 9 tokens; text ``i`` has ``TEXTS[i]`` tokens without padding."""
    mask = (torch.arange(9) < torch.tensor(TEXTS)[:, None]).long()
    words = torch.randint(1, 30, (8, 9), generator=torch.Generator().manual_seed(1)) * mask
    names = [str(i) for i in range(8)]
    return TensorExamples(torch.arange(8) % 3, names, ["a", "b", "c"], {"input_ids": words, "attention_mask": mask})


KINDS = {"image": (image_model, images, 17), "text": (text_model, texts, 9)}


@pytest.fixture(params=list(KINDS))
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Keyword arguments of environments, for images and for texts with padding."""
    model, examples, _ = KINDS[request.param]
    return {"model": Backbone(model()), "examples": examples(), "layers": LAYERS}


@pytest.fixture
def grid(options: dict[str, Any]) -> int:
    return next(grid for model, _, grid in KINDS.values() if isinstance(options["model"].model, type(model())))


@pytest.fixture
def batched(options: dict[str, Any]) -> Iterator[TokenSelectionVectorEnv]:
    env = TokenSelectionVectorEnv(4, **options)
    yield env
    env.close()


def bits(env: TokenSelectionVectorEnv, generator: np.random.Generator, rate: float = 0.6) -> np.ndarray:
    return (generator.random((env.num_envs, env.episodes.grid)) < rate).astype(np.int8)


def episode(env: TokenSelectionVectorEnv, actions: list[np.ndarray]) -> list[tuple[Any, ...]]:
    return [env.step(action) for action in actions]
