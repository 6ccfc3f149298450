"""The environment: Gymnasium's contract, one truth behind single and batched environments, and honest prices."""

import gc
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from rltr.backbone import Backbone
from rltr.envs import (
    ENVIRONMENT,
    DenseLogits,
    Episodes,
    TokenSelectionEnv,
    TokenSelectionVectorEnv,
    default_layers,
    make_episodes,
)
from rltr.errors import RltrError
from rltr.forward import Choice
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
"""Tokens of each text, special ones included."""


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
    """Texts padded to 9 tokens; row ``i`` has ``TEXTS[i]`` of its own."""
    mask = (torch.arange(9) < torch.tensor(TEXTS)[:, None]).long()
    words = torch.randint(1, 30, (8, 9), generator=torch.Generator().manual_seed(1)) * mask
    names = [str(i) for i in range(8)]
    return TensorExamples(torch.arange(8) % 3, names, ["a", "b", "c"], {"input_ids": words, "attention_mask": mask})


KINDS = {"image": (image_model, images, 17), "text": (text_model, texts, 9)}


@pytest.fixture(params=list(KINDS))
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What environments are made of: images, and texts with padding."""
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


# Gymnasium's contract


def test_the_single_environment_passes_gymnasiums_check(options: dict[str, Any]) -> None:
    env = gymnasium.make(ENVIRONMENT, **options, disable_env_checker=True).unwrapped
    assert isinstance(env, TokenSelectionEnv)
    check_env(env)  # warnings are errors here
    env.close()


def test_make_gives_the_single_environment(options: dict[str, Any], grid: int) -> None:
    env = gymnasium.make(ENVIRONMENT, **options)
    shown, info = env.reset(seed=3)
    assert info == {} and shown["tokens"].shape == (grid, 16)
    for step in range(len(LAYERS)):
        shown, reward, terminated, truncated, info = env.step(np.ones(grid, np.int8))
        assert isinstance(reward, float) and not truncated
        assert terminated == (step == len(LAYERS) - 1)
    assert set(info) == {"example", "score", "quality", "dense_quality", "cost"}
    env.close()


def test_make_vec_picks_the_native_batch(options: dict[str, Any], grid: int) -> None:
    env = gymnasium.make_vec(ENVIRONMENT, num_envs=4, **options)
    assert isinstance(env.unwrapped, TokenSelectionVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.single_action_space.shape == (grid,) and env.action_space.shape == (4, grid)
    assert env.single_observation_space["tokens"].shape == (grid, 16)  # type: ignore[index]
    env.close()


def test_every_observation_lies_in_its_space(batched: TokenSelectionVectorEnv) -> None:
    shown, _ = batched.reset(seed=0)
    generator = np.random.default_rng(0)
    for rate in (1.0, 0.7, 0.3, 0.0, 0.5, 0.5):
        assert batched.observation_space.contains(shown)
        assert {name: array.dtype for name, array in shown.items()} == {
            name: space.dtype
            for name, space in batched.observation_space.items()  # type: ignore[attr-defined]
        }
        shown, _, _, _, infos = batched.step(bits(batched, generator, rate))
        if infos:
            assert batched.observation_space.contains(infos["final_obs"])


def test_the_last_layer_terminates_and_never_truncates(batched: TokenSelectionVectorEnv) -> None:
    batched.reset(seed=0)
    for step in range(3 * len(LAYERS)):
        *_, terminated, truncated, infos = batched.step(bits(batched, np.random.default_rng(step)))
        last = step % len(LAYERS) == len(LAYERS) - 1
        assert terminated.tolist() == [last] * 4 and terminated.dtype == bool
        assert truncated.tolist() == [False] * 4 and truncated.dtype == bool
        assert set(infos) == ({"final_obs", "final_info", "_final_obs", "_final_info"} if last else set())


def test_the_next_episode_begins_in_the_step_that_ends_one(batched: TokenSelectionVectorEnv, grid: int) -> None:
    batched.reset(seed=0)
    actions = [bits(batched, np.random.default_rng(i)) for i in range(2)]
    shown, _, _, _, infos = episode(batched, actions)[-1]
    final = infos["final_obs"]
    assert (shown["layer"] == LAYERS[0]).all() and (final["layer"] == 4).all()
    assert (shown["kept"] == 1).all() and (final["kept"] < 1).any()
    assert infos["_final_obs"].all() and infos["_final_info"].all()
    assert not final["alive"].any() and not final["tokens"].any()


def test_what_was_handed_out_is_never_written_to_again(batched: TokenSelectionVectorEnv) -> None:
    shown, _ = batched.reset(seed=0)
    handed: list[tuple[Any, Any]] = []
    infos: dict[str, Any] = {}
    for step in range(3 * len(LAYERS)):
        for given_out in (shown, infos.get("final_obs", {}), infos.get("final_info", {})):
            handed += [(array, array.copy()) for array in given_out.values()]
        shown, reward, _, _, infos = batched.step(bits(batched, np.random.default_rng(step)))
        handed.append((reward, reward.copy()))
    assert all(np.array_equal(array, copy) for array, copy in handed)


def test_writing_to_what_was_handed_out_changes_nothing(options: dict[str, Any]) -> None:
    def rewards(spoil: bool) -> list[list[float]]:
        env = TokenSelectionVectorEnv(4, **options)
        shown, _ = env.reset(seed=0)
        collected = []
        for step in range(2 * len(LAYERS)):
            if spoil:
                for array in shown.values():
                    array[:] = 0
            shown, reward, *_ = env.step(bits(env, np.random.default_rng(step)))
            collected.append(reward.tolist())
            if spoil:
                reward += 1
        env.close()
        return collected

    assert rewards(spoil=True) == rewards(spoil=False)


def test_rewards_are_arrays_of_their_own(batched: TokenSelectionVectorEnv) -> None:
    batched.reset(seed=0)
    _, first, *_ = batched.step(bits(batched, np.random.default_rng(0)))
    _, second, *_ = batched.step(bits(batched, np.random.default_rng(1)))
    assert first.dtype == second.dtype == np.float64 and first.shape == (4,)
    assert first.flags.writeable and not np.shares_memory(first, second)


# Seeds, and one truth for every batch size


def trajectory(env: Any, grid: int, steps: int, row: slice = slice(None), rows: int = 4) -> list[Any]:
    """Everything seen in ``steps`` steps of fixed random actions; ``row`` picks the actions of some environments."""
    generator = np.random.default_rng(7)
    seen = []
    for _ in range(steps):
        action = (generator.random((rows, grid)) < 0.6).astype(np.int8)[row]
        shown, reward, *_ = env.step(action)
        seen.append((shown, reward))
    return seen


def same(one: list[Any], other: list[Any]) -> bool:
    return all(
        np.array_equal(reward, again) and all(np.array_equal(shown[name], seen[name]) for name in shown)
        for (shown, reward), (seen, again) in zip(one, other, strict=True)
    )


def test_the_same_seed_gives_the_same_episodes(batched: TokenSelectionVectorEnv, grid: int) -> None:
    runs = []
    for seed in (5, 5, 6):
        first, _ = batched.reset(seed=seed)
        runs.append([(first, np.zeros(4)), *trajectory(batched, grid, 6)])
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_a_reset_without_seed_goes_on_with_new_inputs(batched: TokenSelectionVectorEnv, grid: int) -> None:
    batched.reset(seed=5)
    weights = [batched.reset()[0]["cost_weight"].tolist() for _ in range(4)]
    assert len({str(weight) for weight in weights}) == 4


def test_environments_without_a_seed_differ(options: dict[str, Any]) -> None:
    weights = []
    for _ in range(3):
        env = TokenSelectionEnv(**options)
        weights.append(env.reset()[0]["cost_weight"].item())
        env.close()
    assert len(set(weights)) == 3


def test_a_native_batch_is_a_loop_of_single_environments(options: dict[str, Any], grid: int) -> None:
    batch = TokenSelectionVectorEnv(4, **options)
    first, _ = batch.reset(seed=11)
    together = trajectory(batch, grid, 3 * len(LAYERS))
    batch.close()
    for i in range(4):
        single = TokenSelectionEnv(**options)
        shown, _ = single.reset(seed=11 + i)
        generator = np.random.default_rng(7)
        alone: list[tuple[dict[str, np.ndarray], float | None]] = [(shown, None)]
        for seen, reward in [(first, None), *together]:
            shown, paid = alone[-1]
            for name in shown:
                np.testing.assert_allclose(shown[name], seen[name][i], rtol=1e-4, atol=1e-5, err_msg=name)
            assert paid is None or paid == pytest.approx(reward[i], rel=1e-4, abs=1e-5)
            action = (generator.random((4, grid)) < 0.6).astype(np.int8)[i]
            after, result, ended, _, _ = single.step(action)
            alone.append((single.reset()[0] if ended else after, result))
        single.close()


def test_seeds_are_for_groups(options: dict[str, Any]) -> None:
    env = TokenSelectionVectorEnv(4, **options, group_size=2)
    shown, _ = env.reset(seed=[1, 2])
    weight = shown["cost_weight"][:, 0].tolist()
    assert weight[0] == weight[1] != weight[2] == weight[3]
    assert env.episodes.index[0] == env.episodes.index[1]
    np.testing.assert_array_equal(shown["tokens"][0], shown["tokens"][1])
    with pytest.raises(ValueError, match="4 seeds for 2 groups"):
        env.reset(seed=[1, 2, 3, 4])
    env.close()


# What is seen and done


def test_actions_may_be_floats_or_bits_and_must_fit(batched: TokenSelectionVectorEnv, grid: int) -> None:
    rewards = []
    for kind in (np.float32, np.int8, bool, np.int64):
        batched.reset(seed=0)
        rewards.append(batched.step(bits(batched, np.random.default_rng(0)).astype(kind))[1].tolist())
    assert all(reward == rewards[0] for reward in rewards)
    with pytest.raises(ValueError, match=rf"expected \(4, {grid}\)"):
        batched.step(np.ones((4, grid + 1)))


def test_protected_and_absent_tokens_ignore_their_actions(options: dict[str, Any]) -> None:
    env = TokenSelectionVectorEnv(4, **options)
    outcomes = []
    for flipped in (False, True):
        shown, _ = env.reset(seed=0)
        for step in range(len(LAYERS)):
            action = bits(env, np.random.default_rng(step))
            ignored = shown["alive"] == 0
            assert ignored[:, 0].all() and shown["present"][:, 0].all()
            action[ignored] = flipped
            shown, reward, *_ = env.step(action)
        outcomes.append(reward.tolist())
    assert outcomes[0] == outcomes[1]
    env.close()


def test_absent_tokens_show_nothing(batched: TokenSelectionVectorEnv) -> None:
    shown, _ = batched.reset(seed=0)
    counts = batched.episodes.examples.batch(batched.episodes.index).get("attention_mask")
    if counts is not None:
        np.testing.assert_array_equal(shown["present"], counts.numpy())
    action = bits(batched, np.random.default_rng(0))
    expected = (shown["present"] == 1) & ((action == 1) | (shown["alive"] == 0))
    shown, *_ = batched.step(action)
    np.testing.assert_array_equal(shown["present"] == 1, expected)
    gone = shown["present"] == 0
    assert not shown["tokens"][gone].any() and not shown["clues"][gone].any() and not shown["alive"][gone].any()
    assert shown["tokens"][~gone].any(-1).all()


def test_the_price_shown_is_paid_if_everything_is_kept(batched: TokenSelectionVectorEnv, grid: int) -> None:
    shown, _ = batched.reset(seed=0)
    for step in range(2 * len(LAYERS)):
        due = shown["price"][:, 0] * shown["present"].sum(1)
        shown, reward, _, _, infos = batched.step(np.ones((4, grid)))
        scored = infos["final_info"]["score"] if infos else 0
        np.testing.assert_allclose(scored - reward, due, rtol=1e-4, atol=1e-6)
        if step == 0:
            np.testing.assert_allclose(shown["spent"][:, 0] - due / shown["cost_weight"][:, 0] > 0, True)


@settings(max_examples=15)
@given(seed=st.integers(0, 50), rate=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_prices_add_up_to_the_cost_reported(seed: int, rate: float) -> None:
    env = shared_text_environment()
    shown, _ = env.reset(seed=seed)
    before, weight = shown["spent"][:, 0], shown["cost_weight"][:, 0]
    total = np.zeros(4)
    for _ in LAYERS:
        _, reward, _, _, infos = env.step(bits(env, np.random.default_rng(seed), rate))
        total += reward
    outcome = env.episodes.outcome
    assert outcome is not None
    paid = infos["final_info"]["score"] - total
    np.testing.assert_allclose(paid, weight * (infos["final_info"]["cost"] - before), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outcome.reward.numpy(), total, rtol=1e-4, atol=1e-5)
    counts = [torch.tensor(stage.counts) for stage in outcome.trace.stages]
    torch.testing.assert_close(outcome.cost, env.episodes.pricing.total(counts) / env.episodes.pricing.unit)


_shared: list[TokenSelectionVectorEnv] = []


def shared_text_environment() -> TokenSelectionVectorEnv:
    """One environment for all of hypothesis's examples."""
    if not _shared:
        _shared.append(TokenSelectionVectorEnv(4, model=text_model(), examples=texts(), layers=LAYERS))
    return _shared[0]


def test_the_score_is_the_tasks_score(options: dict[str, Any]) -> None:
    env = TokenSelectionVectorEnv(4, **options, scoring="fidelity")
    env.reset(seed=0)
    index = env.episodes.index
    *_, infos = episode(env, [np.ones((4, env.episodes.grid))] * 2)[-1]
    np.testing.assert_allclose(infos["final_info"]["score"], 0, atol=1e-5)  # everything kept: the dense answer
    assert infos["final_info"]["example"].tolist() == index.tolist()
    np.testing.assert_array_equal(infos["final_info"]["quality"], infos["final_info"]["dense_quality"])
    env.close()


def test_a_score_that_is_no_number_raises(options: dict[str, Any]) -> None:
    env = TokenSelectionVectorEnv(4, **options)
    env.reset(seed=0)
    model: Any = env.episodes.backbone.model
    with torch.no_grad():
        model.classifier.bias.fill_(torch.nan)
    with pytest.raises(RltrError, match="NaN or infinite"):
        episode(env, [np.ones((4, env.episodes.grid))] * 2)
    env.close()


def test_weights_are_drawn_from_the_whole_range(options: dict[str, Any]) -> None:
    episodes = make_episodes(**options, rows=200, cost_weight=(0.01, 100.0))
    episodes.reset()
    logarithm = episodes.cost_weight.log10()
    assert -2 <= logarithm.min() < -1.8 and 1.8 < logarithm.max() <= 2
    assert abs(logarithm.mean()) < 0.3
    episodes.close()
    fixed = make_episodes(**options, rows=4, cost_weight=(0.5, 0.5))
    fixed.reset()
    torch.testing.assert_close(fixed.cost_weight, torch.full((4,), 0.5))
    fixed.close()


# Episodes


def test_an_environment_can_be_left_at_any_time(options: dict[str, Any]) -> None:
    backbone = options["model"]
    inputs = options["examples"].batch([0, 1])
    native = backbone.model(**inputs).logits
    env = TokenSelectionVectorEnv(4, **options)
    env.reset(seed=0)
    env.step(np.zeros((4, env.episodes.grid)))
    assert torch.equal(backbone.model(**inputs).logits, native)  # a pause inside one pass is no other pass's business
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
        ({"layers": (2, 1)}, "rising"),
        ({"layers": (4,)}, "0 to 3"),
        ({"layers": ()}, "rising"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any], wrong: dict[str, Any], said: str) -> None:
    backbone = options["model"]
    with pytest.raises(RltrError, match=said):
        make_episodes(**options | wrong, rows=4)
    assert backbone.config._attn_implementation == "sdpa"


def test_dense_logits_are_the_models_own_and_computed_once(options: dict[str, Any]) -> None:
    backbone, examples = options["model"], options["examples"]
    calls = []
    handle = backbone.model.register_forward_pre_hook(lambda *_: calls.append(1))
    dense = DenseLogits(backbone, examples, rows=3)
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
    # The same choices in one uninterrupted pass, and the score of its answers by hand.
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
    """As processors give them; what only rounding changed scores next to nothing. ViT itself would take them."""
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
    """A second environment, to evaluate with, is nothing unusual; the last one to close lets go."""
    first = gymnasium.make(ENVIRONMENT, model=tiny_vit, examples=tiny_task.train)
    second = gymnasium.make_vec(ENVIRONMENT, num_envs=2, model=tiny_vit, examples=tiny_task.test)
    first.reset(seed=0)
    second.reset(seed=0)
    first.close()
    assert tiny_vit.config._attn_implementation == "rltr"
    second.step(np.ones((2, 17), dtype=np.int8))
    second.close()
    assert tiny_vit.config._attn_implementation == "sdpa"


def test_an_environment_that_nobody_closes_lets_go_of_the_model(tiny_vit, tiny_task):
    env = TokenSelectionEnv(model=tiny_vit, examples=tiny_task.train)
    env.reset(seed=0)
    del env
    gc.collect()
    assert tiny_vit.config._attn_implementation == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in tiny_vit.vit.layers)
