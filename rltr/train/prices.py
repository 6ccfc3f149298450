"""The cost model that a recipe asks for: counted, measured here, or measured before."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from rltr import tokens as ragged
from rltr.attended import Attended
from rltr.backbone import Backbone
from rltr.cost import CostModel, FlopsCost, LatencyCost
from rltr.envs.episodes import row_length
from rltr.errors import RltrError
from rltr.forward import Decision
from rltr.policies.network import PolicyConfig, TokenPolicy, decision_flops
from rltr.policies.observation import Observation
from rltr.recipe.fields import CostGroup

Inputs: TypeAlias = Mapping[str, Tensor]
"""Inputs of a model, by name."""


def make_cost(backbone: Backbone, config: PolicyConfig, wanted: CostGroup, sample: Inputs) -> CostModel:
    """The cost model a recipe asks for, the policy's own cost included.

    Args:
        backbone: whose layers are priced, where they will run.
        config: shape of the policy.
        wanted: what the recipe says.
        sample: inputs of one row, with the most tokens a row will have.

    Raises:
        RltrError: if the layers cannot be priced so, or a measured table does not fit.
    """
    return MAKERS[wanted.kind](backbone, config, wanted, sample)


def check_conditions(cost: CostModel, backbone: Backbone) -> None:
    """Refuse prices that were measured for another model or under other conditions than those at hand.

    Raises:
        RltrError: with both, and how to run under the old ones from Python and from the command line.
    """
    if not isinstance(cost, LatencyCost):
        return
    try:
        cost.check(backbone)
    except RltrError as error:
        there = cost.machine
        raise RltrError(
            f"{error} (on the command line it was made with: --device {there.device} --threads {there.threads})"
        ) from error


def _flops(backbone: Backbone, config: PolicyConfig, wanted: CostGroup, sample: Inputs) -> CostModel:
    return FlopsCost.count(backbone.layers, *decision_flops(config))


def _latency(backbone: Backbone, config: PolicyConfig, wanted: CostGroup, sample: Inputs) -> CostModel:
    longest = row_length(backbone, sample)
    if wanted.table is None:
        rows = wanted.batch_size
        work = decision_work(backbone, TokenPolicy(config).to(backbone.device), rows)
        return LatencyCost.measure(backbone, longest, rows, work, inputs=sample)
    cost = LatencyCost.load(wanted.table, backbone)
    cost.layer(0, torch.tensor([float(longest)]))  # refuses inputs longer than the table now, not in their middle
    return cost


MAKERS: dict[str, Callable[[Backbone, PolicyConfig, CostGroup, Inputs], CostModel]] = {
    "flops": _flops,
    "latency": _latency,
}
"""How each cost model is made, by the name recipes use."""


def decision_work(backbone: Backbone, network: TokenPolicy, rows: int) -> Callable[[int], object]:
    """Everything a decision does on ``rows`` rows of so many random tokens: policy, redundancy, merging, packing."""
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def decide(count: int) -> object:
        tokens = ragged.everything(rows, count, backbone.device)
        hidden = torch.randn(tokens.total, backbone.width, generator=generator).to(backbone.device, backbone.dtype)
        protected = tokens.slot < backbone.family.leading_tokens(backbone.config)
        width = backbone.width // backbone.config.num_attention_heads
        query = key = hidden.view(rows, count, -1, width).transpose(1, 2)
        attended = Attended(query, key, width**-0.5, tokens)
        decision = Decision(0, 0, hidden, tokens, protected, tokens.count, attended)
        ones = torch.ones(rows, device=backbone.device)
        network(Observation.of_decision(decision, ones, ones))
        kept = (torch.rand(tokens.total, generator=generator).to(backbone.device) < 0.5) | protected
        return ragged.merge(hidden, tokens, kept, *decision.redundancy.partners(kept))

    return decide
