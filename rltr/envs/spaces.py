"""Observation and action spaces, and the conversion of observations to them."""

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rltr.envs.episodes import Episodes
from rltr.policies.observation import TOKEN_FEATURES, Observation

FINITE = np.finfo(np.float32)


def observation_space(grid: int, width: int, depth: int) -> spaces.Dict:
    """Observation space of one environment.

    - ``tokens (grid, width)``: hidden states, zeros where a token was removed
    - ``token_features (grid, 5)``: token features, zeros where a token was removed
    - ``present (grid,)``: 1 for tokens that are still in the sequence
    - ``alive (grid,)``: 1 for tokens that can be dropped now; protected tokens are present but not alive
    - ``price (1,)``: cost of keeping one token until the next decision, in reward units
    - ``cost_weight (1,)``: reward units per dense pass of a typical input
    - ``layer (1,)``: index of the layer about to run
    - ``kept (1,)``: fraction of the tokens that is left
    - ``spent (1,)``: cost so far, in dense passes of a typical input
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
    """Convert an observation to the layout of the space: tensors with one row per input, on the same device."""
    device = seen.hidden.device
    shown = seen.to_grid()
    # Copied, so that writing to an observation does not change the state of the episodes.
    shown["cost_weight"] = episodes.cost_weight[:, None].to(device, copy=True)
    shown["spent"] = episodes.spent[:, None].to(device, copy=True)
    shown["layer"] = shown["layer"].float()
    for binary in ("present", "alive"):
        shown[binary] = shown[binary].to(torch.int8)
    return {name: shown[name] if shown[name].dtype == torch.int8 else shown[name].float() for name in shown}


def final_grid(episodes: Episodes, width: int, depth: int) -> dict[str, Tensor]:
    """Observation after the last decision: the tokens left and the total cost; no token can be dropped any more."""
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
