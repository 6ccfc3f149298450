"""Build episodes from a model and data, with defaults for everything else."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from rltr.cost import CostModel, FlopsCost
from rltr.cost.pricing import Pricing
from rltr.dense.answers import DenseAnswers
from rltr.envs.actions import keep_mask
from rltr.envs.episodes import Episodes, longest_row, typical_row
from rltr.policies.network import PolicyConfig, decision_flops
from rltr.recipe.learning import COST_WEIGHT
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.tasks import Examples


def default_layers(depth: int) -> tuple[int, ...]:
    """Default decision layers: every second layer from the first on, without the last two.

    Several small decisions give better results than few large ones. A decision before one of the last two layers saves
    less than it costs.
    """
    return tuple(range(0, max(depth - 2, 1), 2))


def make_episodes(
    model: PreTrainedModel | Backbone,
    examples: Examples,
    *,
    rows: int = 1,
    layers: Sequence[int] | None = None,
    cost: CostModel | None = None,
    cost_weight: tuple[float, float] = COST_WEIGHT,
    scoring: str = "both",
    removal: Removal = "merge",
    group_size: int = 1,
) -> Episodes:
    """Build episodes on a model and data.

    Args:
        model: a frozen model or its backbone. Environments of the same model share one backbone.
        examples: inputs and labels to draw from.
        rows: inputs per batch.
        layers: the decision layers; None takes those of :func:`default_layers`.
        cost: the cost model; None counts FLOPs, including those of the token policy.
        cost_weight: lowest and highest cost weight, drawn log-uniformly per episode.
        scoring: ``quality`` (or ``accuracy``, the same), ``fidelity`` or ``both``.
        removal: ``merge`` or ``drop``.
        group_size: number of consecutive rows that share an input and a cost weight.

    Raises:
        RltrError: if model, data and options do not fit together.
    """
    backbone = model if isinstance(model, Backbone) else Backbone.shared(model)
    if layers is None:
        layers = default_layers(backbone.depth)
    if cost is None:
        policy = PolicyConfig(backbone.width, backbone.depth, longest_row(backbone, examples), backbone.family.pooled)
        cost = FlopsCost.count(backbone.layers, *decision_flops(policy))
    pricing = Pricing(cost, layers, backbone.depth, typical_row(backbone, examples))
    return Episodes(DenseAnswers(backbone, examples), pricing, rows, cost_weight, scoring, removal, group_size)


def as_keep(actions: object, episodes: Episodes) -> torch.Tensor:
    """Convert the actions of one batch of episodes to a keep mask ``(rows, grid)``; see :func:`keep_mask`."""
    return keep_mask(actions, episodes.rows, episodes.grid)
