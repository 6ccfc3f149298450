"""Every environment accepts only bits as actions; after an error the episode continues."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rltr.envs import TokenSelectionEnv, TokenSelectionVecEnv, TokenSelectionVectorEnv, make_episodes
from rltr.envs.actions import keep_mask
from rltr.errors import RltrError
from tests.envs.conftest import LAYERS

GOOD = np.array([[1, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.uint16, np.int64, np.float16, np.float32, np.float64])
def test_bits_of_every_numeric_kind(kind: Any) -> None:
    for given in (GOOD.astype(kind), GOOD.astype(kind).tolist(), GOOD[:, ::-1].astype(kind)[:, ::-1]):
        assert torch.equal(keep_mask(given, 2, 3), torch.tensor(GOOD, dtype=torch.bool))


@pytest.mark.parametrize("kind", [torch.bool, torch.int8, torch.uint8, torch.int64, torch.bfloat16, torch.float64])
def test_bits_as_tensors(kind: torch.dtype) -> None:
    assert torch.equal(keep_mask(torch.tensor(GOOD, dtype=kind), 2, 3), torch.tensor(GOOD, dtype=torch.bool))


def put(value: float) -> Any:
    actions = GOOD.astype(np.float32)
    actions[1, 2] = value
    return actions


WRONG: dict[str, tuple[Any, str]] = {
    "nan": (put(np.nan), "an action is nan"),
    "infinity": (put(np.inf), "an action is inf"),
    "a logit": (put(-3.5), "an action is -3.5"),
    "a probability": (put(0.75), "an action is 0.75"),
    "almost one": (put(1.0000001), "an action is 1.0000"),
    "two": (GOOD + 1, "an action is 2"),
    "a tensor of nan": (torch.full((2, 3), torch.nan), "an action is nan"),
    "texts": (GOOD.astype(str), "not bits"),
    "objects": (GOOD.astype(object), "object, not bits"),
    "nothing": (None, "have shape"),
    "complex": (GOOD.astype(complex), "not bits"),
    "turned": (GOOD.T, r"have shape \(3, 2\); expected \(2, 3\)"),
    "one row": (GOOD[0], r"have shape \(3,\); expected \(2, 3\)"),
    "ragged": ([[1, 0, 1], [1]], "not an array of bits"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG)
def test_everything_else_is_refused(given: Any, said: str) -> None:
    with pytest.raises(RltrError, match=said) as refused:
        keep_mask(given, 2, 3)
    assert "\n" not in str(refused.value)


def vector(options: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    env = TokenSelectionVectorEnv(2, **options)
    env.reset(seed=0)
    return env, env.step


def one(options: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    env = TokenSelectionEnv(**options)
    env.reset(seed=0)
    return env, lambda actions: env.step(actions[0])


def stable_baselines3(options: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    env = TokenSelectionVecEnv(make_episodes(**options, rows=2))
    env.reset()
    return env, env.step


def episodes(options: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    made = make_episodes(**options, rows=2)
    made.reset()
    return made, lambda actions: made.step(torch.as_tensor(actions))


@pytest.mark.parametrize("make", [vector, one, stable_baselines3, episodes])
@pytest.mark.parametrize("value", [np.nan, 0.4])
def test_every_environment_refuses_them_and_continues(
    make: Any, value: float, options: dict[str, Any], grid: int
) -> None:
    env, step = make(options)
    wrong = np.ones((2, grid), np.float32)
    wrong[0, -1] = value  # wrong values are refused even where the token is absent
    for _ in LAYERS:
        with pytest.raises(RltrError, match="an action is"):
            step(wrong)
        step(np.ones((2, grid), np.float32))  # the refused action has changed nothing
    env.close()
