"""Every observation lies in its declared space, for any inputs and any dropped tokens."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from rltr.envs import TokenSelectionVectorEnv
from rltr.runtime.backbone import Backbone
from rltr.tasks import TensorExamples
from tests.envs.conftest import SMALL

LAYERS = (0, 2)


def duplicates(width: int, seed: int, dtype: torch.dtype) -> Any:
    """A model without position embeddings and images of one colour: all patches are equal up to rounding."""
    torch.manual_seed(seed)
    config = ViTConfig(**{**SMALL, "hidden_size": width}, image_size=32, patch_size=4)
    model = ViTForImageClassification(config).eval().to(dtype)
    with torch.no_grad():
        model.vit.embeddings.position_embeddings.zero_()
    pixels = torch.randn(4, 3, 1, 1).expand(4, 3, 32, 32).contiguous()
    pixels[3] = 0.0
    return model, {"pixel_values": pixels}


def repeated(width: int, seed: int, dtype: torch.dtype) -> Any:
    """Texts of one repeated word, without position embeddings; of 20 places they fill 20, 1, 10 and 2."""
    torch.manual_seed(seed)
    config = BertConfig(**{**SMALL, "hidden_size": width}, vocab_size=30, max_position_embeddings=24)
    model = BertForSequenceClassification(config).eval().to(dtype)
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight.zero_()
    words = torch.randint(1, 30, (4, 1)).repeat(1, 20)
    mask = (torch.arange(20) < torch.tensor([20, 1, 10, 2])[:, None]).long()
    return model, {"input_ids": words * mask, "attention_mask": mask}


@settings(max_examples=24)
@given(
    make=st.sampled_from([duplicates, repeated]),
    width=st.sampled_from([16, 48, 96]),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    removal=st.sampled_from(["merge", "drop"]),
)
def test_observations_stay_in_their_space(
    make: Any, width: int, seed: int, dtype: torch.dtype, rate: float, removal: Any
) -> None:
    model, inputs = make(width, seed, dtype)
    examples = TensorExamples(torch.arange(4) % 3, list("abcd"), ["x", "y", "z"], inputs)
    env = TokenSelectionVectorEnv(4, model=Backbone(model), examples=examples, layers=LAYERS, removal=removal)
    generator = np.random.default_rng(seed)
    shown, _ = env.reset(seed=seed % 1000)
    for _ in range(2 * len(LAYERS)):
        assert env.observation_space.contains(shown)
        for row in range(4):
            assert env.single_observation_space.contains({name: value[row] for name, value in shown.items()})
        actions = (generator.random((4, env.episodes.grid)) < rate).astype(np.int8)
        shown, _, terminated, _, infos = env.step(actions)
        if terminated.any():
            assert env.observation_space.contains(infos["final_obs"])
    env.close()


def test_duplicates_are_recognised_as_such() -> None:
    """The clipping that keeps token features in their space does not change the cosine of duplicates."""
    model, inputs = duplicates(48, 0, torch.float32)
    inputs["pixel_values"][3] = 1.0  # a black image has no hidden states to compare
    examples = TensorExamples(torch.arange(4) % 3, list("abcd"), ["x", "y", "z"], inputs)
    env = TokenSelectionVectorEnv(4, model=Backbone(model), examples=examples, layers=LAYERS)
    shown, _ = env.reset(seed=0)
    cosine = shown["token_features"][..., 0][shown["alive"] == 1]
    assert cosine == pytest.approx(1.0, abs=1e-5)
    env.close()
