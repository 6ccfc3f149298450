"""Observation and action spaces, and turning observations into what they hold."""

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rltr.envs.episodes import Episodes
from rltr.policies.observation import TOKEN_FEATURES, Observation

FINITE = np.finfo(np.float32)


def observation_space(grid: int, width: int, depth: int) -> spaces.Dict:
    """What one environment shows.

    ``tokens (grid, width)`` hidden states and ``token_features (grid, 5)``, zeros where a token is gone; ``present
    (grid,)`` which are still in the stream; ``alive (grid,)`` which of those may still be dropped; ``price (1,)`` what
    keeping one until the next decision costs, in reward units; ``cost_weight (1,)`` reward units per dense pass of a
    typical input; ``layer (1,)`` the layer about to run; ``kept (1,)`` share of tokens left; ``spent (1,)`` cost so far
    in such passes.
    """

    def numbers(*shape: int, low: float = float(FINITE.min), high: float = float(FINITE.max)) -> spaces.Box:
        return spaces.Box(low, high, shape, np.float32)

    return spaces.Dict(
        {
            "tokens": numbers(grid, width),
            "token_features": numbers(grid, TOKEN_FEATURES, low=-1.0, high=1.0),
            "present": spaces.MultiBinary(grid),
            "alive": spaces.MultiBinary(grid),
            "price": numbers(1, low=0.0),
            "cost_weight": numbers(1, low=0.0),
            "layer": numbers(1, low=0.0, high=float(depth)),
            "kept": numbers(1, low=0.0, high=1.0),
            "spent": numbers(1, low=0.0),
        }
    )


def action_space(grid: int) -> spaces.MultiBinary:
    """Keep (1) or drop (0) for every original token; entries of protected and absent tokens are ignored."""
    return spaces.MultiBinary(grid)


def to_grid(seen: Observation, episodes: Episodes) -> dict[str, Tensor]:
    """The observation as the spaces have it, one row per input, as tensors on the observation's device."""
    device = seen.hidden.device
    shown = seen.to_grid()
    # Copies: whoever writes to an observation must not change what the episodes go by.
    shown["cost_weight"] = episodes.cost_weight[:, None].to(device, copy=True)
    shown["spent"] = episodes.spent[:, None].to(device, copy=True)
    shown["layer"] = shown["layer"].float()
    for binary in ("present", "alive"):
        shown[binary] = shown[binary].to(torch.int8)
    return {name: shown[name] if shown[name].dtype == torch.int8 else shown[name].float() for name in shown}


def final_grid(episodes: Episodes, width: int, depth: int) -> dict[str, Tensor]:
    """The observation after the last decision: who was left and what it cost; there is nothing more to decide."""
    outcome = episodes.outcome
    assert outcome is not None
    rows, grid = len(outcome.cost), episodes.grid
    present = torch.zeros(rows, grid, dtype=torch.int8)
    present[:, : outcome.trace.grid] = outcome.trace.stages[-1].present.cpu()
    begun, left = outcome.trace.stages[0].count.cpu(), outcome.trace.stages[-1].count.cpu()
    return {
        "tokens": torch.zeros(1).expand(rows, grid, width),
        "token_features": torch.zeros(1).expand(rows, grid, TOKEN_FEATURES),
        "present": present,
        "alive": torch.zeros_like(present),
        "price": torch.zeros(rows, 1),
        "cost_weight": outcome.cost_weight[:, None],
        "layer": torch.full((rows, 1), float(depth)),
        "kept": (left / begun)[:, None],
        "spent": outcome.cost[:, None].float(),
    }
