"""Episodes: closing, invalid arguments, random state, shared models, and outcomes."""

import gc
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BeitConfig, BeitForImageClassification

from rltr.dense import DenseAnswers
from rltr.envs import ENVIRONMENT, Episodes, TokenSelectionEnv, TokenSelectionVectorEnv, default_layers, make_episodes
from rltr.errors import RltrError
from rltr.recipe.learning import LearnerGroup
from rltr.runtime.decision import Choice
from rltr.tasks import TensorExamples
from tests.envs.conftest import LAYERS, SMALL, TEXTS, images, text_model, texts


def test_an_environment_can_be_left_at_any_time(options: dict[str, Any]) -> None:
    backbone = options["model"]
    inputs = options["examples"].batch([0, 1])
    native = backbone.model(**inputs).logits
    env = TokenSelectionVectorEnv(4, **options)
    env.reset(seed=0)
    env.step(np.zeros((4, env.episodes.grid)))
    assert torch.equal(backbone.model(**inputs).logits, native)  # a paused pass does not affect other passes
    env.reset(seed=0)
    env.close()
    env.close()
    assert torch.equal(backbone.model(**inputs).logits, native)
    assert backbone.config._attn_implementation == "sdpa"


def test_closing_twice_and_stepping_out_of_turn(options: dict[str, Any]) -> None:
    env = TokenSelectionEnv(**options)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.ones(env.episodes.grid))
    env.reset(seed=0)
    for _ in LAYERS:
        env.step(np.ones(env.episodes.grid))
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.ones(env.episodes.grid))
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cost_weight": (0.0, 1.0)}, "above 0"),
        ({"cost_weight": (2.0, 1.0)}, "lower one first"),
        ({"group_size": 3}, "whole groups"),
        ({"scoring": "style"}, "quality, accuracy, fidelity"),
        ({"layers": (2, 1)}, "ascending"),
        ({"layers": (4,)}, "0 to 3"),
        ({"layers": ()}, "ascending"),
    ],
)
def test_invalid_arguments_are_refused_on_construction(
    options: dict[str, Any], wrong: dict[str, Any], said: str
) -> None:
    backbone = options["model"]
    with pytest.raises(RltrError, match=said):
        make_episodes(**options | wrong, rows=4)
    assert backbone.config._attn_implementation == "sdpa"


def test_dense_logits_are_the_models_own_and_computed_once(options: dict[str, Any]) -> None:
    backbone, examples = options["model"], options["examples"]
    calls = []
    handle = backbone.model.register_forward_pre_hook(lambda *_: calls.append(1))
    dense = DenseAnswers(backbone, examples, rows=3)
    index = torch.tensor([2, 2, 7, 0])
    logits = dense(index)
    assert len(calls) == 1 and torch.equal(dense(index.flip(0)), logits.flip(0)) and len(calls) == 1
    handle.remove()
    with torch.no_grad():
        torch.testing.assert_close(logits, backbone.model(**examples.batch(index)).logits)


def test_random_state_replays_the_coming_episodes(options: dict[str, Any]) -> None:
    episodes = make_episodes(**options, rows=4)
    episodes.seed([1, 2, 3, 4])
    episodes.reset()
    state = episodes.random_state()
    drawn = [episodes.index.tolist(), episodes.cost_weight.tolist()]
    episodes.reset()
    assert [episodes.index.tolist(), episodes.cost_weight.tolist()] != drawn
    episodes.set_random_state(state)
    episodes.reset()
    assert [episodes.index.tolist(), episodes.cost_weight.tolist()] == drawn
    episodes.close()


def test_an_outcome_says_what_happened(options: dict[str, Any]) -> None:
    episodes: Episodes = make_episodes(**options, rows=4)
    episodes.reset()
    index, generator = episodes.index, torch.Generator().manual_seed(0)
    kept: list[Tensor] = []
    for _ in LAYERS:
        kept.append(torch.rand(4, episodes.grid, generator=generator) < 0.5)
        episodes.step(kept[-1])
    outcome = episodes.outcome
    assert outcome is not None and torch.equal(outcome.index, index)
    width = outcome.trace.grid
    begun = outcome.trace.present[0]
    expected = begun & (kept[0] & kept[1])[:, :width]
    expected[:, 0] = True
    assert torch.equal(outcome.trace.present[-1], expected)
    labels = episodes.examples.labels[index]
    dense = episodes.dense(index)
    assert torch.equal(outcome.dense_quality, (dense.argmax(-1) == labels).float())
    # The same decisions in one uninterrupted pass, and its score computed by hand.
    forward = episodes.backbone.forward(
        lambda seen: Choice(kept[seen.index][seen.tokens.row, seen.tokens.position]), LAYERS
    )
    with torch.no_grad():
        answers = episodes.backbone.run(forward, episodes.examples.batch(index))[0]["logits"]
    assert not torch.allclose(answers, dense, atol=0.01)
    shares = dense.softmax(-1)
    left = -(shares * (shares / answers.softmax(-1)).log()).sum(-1)
    gained = [
        int(reduced == label) - int(native == label)
        for reduced, native, label in zip(
            answers.argmax(-1).tolist(), dense.argmax(-1).tolist(), labels.tolist(), strict=True
        )
    ]
    torch.testing.assert_close(outcome.score, torch.tensor(gained) + left.clamp(min=-3), rtol=1e-4, atol=1e-5)
    episodes.close()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_take_inputs_in_single(dtype: torch.dtype) -> None:
    """Processors return float32. Rounding alone changes the score very little. BEiT, since ViT casts its inputs."""
    model = BeitForImageClassification(BeitConfig(**SMALL, image_size=16, patch_size=4, num_channels=1)).eval()
    episodes = make_episodes(model.to(dtype), images(), rows=4, layers=LAYERS, scoring="fidelity")
    for keep, most in ((torch.ones(4, episodes.grid), 0.02), (torch.zeros(4, episodes.grid), 3.0)):
        episodes.reset()
        for _ in range(episodes.steps):
            _, reward, ended = episodes.step(keep > 0)
            assert reward.dtype == torch.float32 and bool(reward.isfinite().all())
        assert ended and episodes.outcome is not None
        assert -most <= float(episodes.outcome.score.min()) <= float(episodes.outcome.score.max()) <= 0
    episodes.close()


def test_default_layers_leave_the_end_alone() -> None:
    assert default_layers(12) == (0, 2, 4, 6, 8)
    assert default_layers(6) == (0, 2)
    assert default_layers(2) == (0,)


def test_environments_of_one_model_share_it(tiny_vit, tiny_task):
    """Two environments can use one model, for training and evaluation. The last one to close detaches."""
    first = gymnasium.make(ENVIRONMENT, model=tiny_vit, examples=tiny_task.train)
    second = gymnasium.make_vec(ENVIRONMENT, num_envs=2, model=tiny_vit, examples=tiny_task.test)
    first.reset(seed=0)
    second.reset(seed=0)
    first.close()
    assert tiny_vit.config._attn_implementation == "rltr"
    second.step(np.ones((2, 17), dtype=np.int8))
    second.close()
    assert tiny_vit.config._attn_implementation == "sdpa"


def test_an_environment_that_is_garbage_collected_detaches(tiny_vit, tiny_task):
    env = TokenSelectionEnv(model=tiny_vit, examples=tiny_task.train)
    env.reset(seed=0)
    del env
    gc.collect()
    assert tiny_vit.config._attn_implementation == "sdpa"
    assert not any("forward" in vars(layer) for layer in tiny_vit.vit.layers)


def test_the_unit_of_prices_is_a_text_of_median_length_without_its_padding() -> None:
    class Counted(TensorExamples):
        def lengths(self) -> list[int]:
            return TEXTS

    padded = texts()
    examples = Counted(padded.labels, padded.names, padded.classes, padded.inputs)
    episodes = make_episodes(text_model(), examples, rows=2)
    assert episodes.grid == 9 and episodes.pricing.typical == sorted(TEXTS)[len(TEXTS) // 2] == 6
    episodes.close()


def test_environments_cost_what_trainings_do(options: dict[str, Any]) -> None:
    """The default cost weights of environments are those of trainings."""
    episodes = make_episodes(**options, rows=4)
    assert episodes.weights == LearnerGroup().cost_weight
    plain = Episodes(episodes.dense, episodes.pricing, rows=4)
    assert plain.weights == LearnerGroup().cost_weight
    plain.close()
    episodes.close()
