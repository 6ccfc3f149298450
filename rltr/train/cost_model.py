"""The cost model that a recipe asks for: counted, measured here, or measured before."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from rltr import tokens as ragged
from rltr.attended import Attended
from rltr.backbone import Backbone
from rltr.cost import CostModel, FlopsCost, LatencyCost
from rltr.envs.episodes import row_length
from rltr.errors import RltrError
from rltr.forward import Decision, Dropped
from rltr.policies.network import PolicyConfig, TokenPolicy, decision_flops
from rltr.policies.observation import Observation
from rltr.recipe.fields import CostGroup

Inputs: TypeAlias = Mapping[str, Tensor]
"""Inputs of a model, by name."""


def make_cost(
    backbone: Backbone, config: PolicyConfig, wanted: CostGroup, sample: Inputs, dropped: Dropped
) -> CostModel:
    """The cost model a recipe asks for, the policy's own cost included.

    Args:
        backbone: whose layers are priced, where they will run.
        config: shape of the policy.
        wanted: what the recipe says.
        sample: inputs of one row, with the most tokens a row will have.
        dropped: what a decision does with tokens that leave.

    Raises:
        RltrError: if the layers cannot be priced so, or a measured table does not fit.
    """
    return MAKERS[wanted.kind](backbone, config, wanted, sample, dropped)


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


def _flops(backbone: Backbone, config: PolicyConfig, wanted: CostGroup, sample: Inputs, dropped: Dropped) -> CostModel:
    return FlopsCost.count(backbone.layers, *decision_flops(config))


def _latency(
    backbone: Backbone, config: PolicyConfig, wanted: CostGroup, sample: Inputs, dropped: Dropped
) -> CostModel:
    longest = row_length(backbone, sample)
    if wanted.table is None:
        rows = wanted.batch_size
        work = decision_work(backbone, TokenPolicy(config).to(backbone.device), rows, dropped)
        return LatencyCost.measure(backbone, longest, rows, work, inputs=sample)
    cost = LatencyCost.load(wanted.table, backbone)
    if longest > cost.longest:
        raise RltrError(
            f"{wanted.table} was measured for up to {cost.longest} tokens, but the data have up to {longest}: longer "
            "inputs than it was measured for. Leave cost.table out to measure anew"
        )
    return cost


MAKERS: dict[str, Callable[[Backbone, PolicyConfig, CostGroup, Inputs, Dropped], CostModel]] = {
    "flops": _flops,
    "latency": _latency,
}
"""How each cost model is made, by the name recipes use."""


def decision_work(
    backbone: Backbone, network: TokenPolicy, rows: int, dropped: Dropped = "merge"
) -> Callable[[int], object]:
    """Everything a decision does on ``rows`` rows of so many random tokens: policy, redundancy, merging, packing."""
    generator = torch.Generator().manual_seed(0)
    prepared: dict[int, tuple[Decision, Tensor]] = {}

    def prepare(count: int) -> tuple[Decision, Tensor]:
        """Random hidden states, and who stays: made once, as drawing them is no part of a decision."""
        tokens = ragged.everything(rows, count, backbone.device)
        hidden = torch.randn(tokens.total, backbone.width, generator=generator).to(backbone.device, backbone.dtype)
        protected = tokens.slot < backbone.family.leading_tokens(backbone.config)
        width = backbone.width // backbone.config.num_attention_heads
        query = key = hidden.view(rows, count, -1, width).transpose(1, 2)
        attended = Attended(query, key, width**-0.5, tokens)
        decision = Decision(0, 0, hidden, tokens, protected, tokens.count, attended, backbone.family.causal)
        kept = (torch.rand(tokens.total, generator=generator).to(backbone.device) < 0.5) | protected
        return decision, kept

    @torch.no_grad()
    def decide(count: int) -> object:
        if count not in prepared:
            prepared[count] = prepare(count)
        decision, kept = prepared[count]
        # Copies forget what the last call computed: a decision finds a new batch every time.
        tokens = replace(decision.tokens)
        assert decision.attended is not None
        decision = replace(decision, tokens=tokens, attended=replace(decision.attended, tokens=tokens))
        ones = torch.ones(rows, device=backbone.device, dtype=torch.float32)
        network(Observation.of_decision(decision, ones, ones))
        if dropped == "drop":
            return ragged.take(decision.hidden, kept), ragged.keep(decision.tokens, kept)
        return ragged.merge(decision.hidden, decision.tokens, kept, *decision.redundancy.partners(kept))

    return decide
