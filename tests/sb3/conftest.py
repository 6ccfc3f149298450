"""The environment as a VecEnv of stable-baselines3."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from rltr.envs import TokenSelectionVecEnv, make_episodes
from rltr.tasks import TensorExamples

LAYERS = (1, 2)
GRID = 17


@pytest.fixture(scope="module")
def options() -> dict[str, Any]:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
        initializer_range=0.5,
    )
    pixels = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    names = [str(i) for i in range(8)]
    examples = TensorExamples(torch.arange(8) % 3, names, ["a", "b", "c"], {"pixel_values": pixels})
    return {"model": ViTForImageClassification(config).eval(), "examples": examples, "layers": LAYERS}


@pytest.fixture
def env(options: dict[str, Any]) -> Iterator[Any]:  # a TokenSelectionVecEnv; VecEnv's own types allow too much
    env = TokenSelectionVecEnv(make_episodes(**options, rows=4))
    yield env
    env.close()


def bits(seed: int, rate: float = 0.6) -> np.ndarray:
    """Random actions as floats, as stable-baselines3 passes them."""
    return (np.random.default_rng(seed).random((4, GRID)) < rate).astype(np.float32)
