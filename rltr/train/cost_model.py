"""The cost model that a recipe asks for: counted, or measured now or before and held against whole passes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

from torch import Tensor

from rltr.cost import COST_MODELS, CostModel, CountedCost, FlopsCost, LatencyCost
from rltr.cost.passes import WholePasses
from rltr.cost.rounds import CLOCK, Clock
from rltr.cost.scaling import compare, scaled
from rltr.envs.episodes import row_length
from rltr.errors import RltrError
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.recipe.learning import CostGroup
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.train.decision_work import decision_work
from rltr.train.trusted_prices import UnreliablePrices, trust
from rltr.train.whole_passes import probes, time_passes

log = logging.getLogger(__name__)

Inputs: TypeAlias = Mapping[str, Tensor]
"""Inputs of a model, by name."""


@dataclass(frozen=True)
class Priced:
    """What is priced.

    Attributes:
        backbone: its layers, where they will run.
        policy: shape of the policy that decides.
        layers: the decision layers.
        removal: what a decision does with tokens that leave.
        longest: inputs of one row, with the most tokens a row will have.
        batch: inputs as the model will get them, padding included: whole passes are timed on them.
    """

    backbone: Backbone
    policy: PolicyConfig
    layers: tuple[int, ...]
    removal: Removal
    longest: Inputs
    batch: Inputs


def make_cost(priced: Priced, wanted: CostGroup, clock: Clock = CLOCK) -> CostModel:
    """The cost model a recipe asks for, the policy's own cost included.

    Args:
        priced: what is priced.
        wanted: what the recipe says.
        clock: replaced in tests.

    Raises:
        UnreliablePrices: if prices do not hold for whole passes, or the machine is too busy; the caller says what to
            do.
        RltrError: if the layers cannot be priced so, or a measured table does not fit.
    """
    if wanted.kind == LatencyCost.name:
        return _latency(priced, wanted, clock)
    counted = cast(type[CountedCost], COST_MODELS[wanted.kind])  # the registry takes no other
    return counted.for_training(priced.backbone, priced.policy)


def spread(rows: int, examples: int) -> list[int]:
    """Indices of so many examples, evenly spread over a split, as often as it takes: files are sorted, batches not."""
    return [row * examples // rows if rows <= examples else row % examples for row in range(rows)]


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


def measured_cost(priced: Priced, rows: int, clock: Clock = CLOCK) -> LatencyCost:
    """Prices of parts measured here, scaled to whole passes and compared with them.

    How well they fit is in ``fit``, how busy the machine was in ``busy`` and ``disagreement``.

    Args:
        priced: what is priced.
        rows: inputs per batch.
        clock: replaced in tests.
    """
    backbone = priced.backbone
    network = TokenPolicy(priced.policy).to(backbone.device)
    work = decision_work(backbone, network, rows, priced.removal)
    longest = row_length(backbone, priced.longest)
    cost = LatencyCost.measure(backbone, longest, rows, work, inputs=priced.longest, clock=clock)
    passes = time_passes(
        backbone, probes(network, priced.layers), priced.layers, priced.removal, priced.batch, clock=clock
    )
    return scaled(_beside(cost, passes), passes)


def _beside(cost: LatencyCost, passes: WholePasses) -> LatencyCost:
    """The same prices, with how busy the machine was when it was busiest: when parts were measured, or whole passes."""
    worse = cost if cost.disagreement > passes.disagreement else passes
    return replace(cost, busy=worse.busy or cost.busy or passes.busy, disagreement=worse.disagreement)


def _latency(priced: Priced, wanted: CostGroup, clock: Clock) -> CostModel:
    try:
        return _measured_or_stored(priced, wanted, clock)
    except UnreliablePrices as error:
        if wanted.when_busy == "refuse":
            raise
        log.warning("%s. FLOPs are counted instead, as cost.when_busy says", error)
        return FlopsCost.for_training(priced.backbone, priced.policy)


def _measured_or_stored(priced: Priced, wanted: CostGroup, clock: Clock) -> LatencyCost:
    make = partial(_measured, wanted.batch_size) if wanted.table is None else partial(_stored, wanted.table)
    try:
        return make(priced, clock)
    except UnreliablePrices:
        # Most of what disturbs is short.
        return make(priced, clock)


def _measured(rows: int, priced: Priced, clock: Clock) -> LatencyCost:
    return trust(measured_cost(priced, rows, clock))


def _stored(table: Path, priced: Priced, clock: Clock) -> LatencyCost:
    """Prices measured before, compared with whole passes here and now."""
    cost = LatencyCost.load(table, priced.backbone)
    longest = row_length(priced.backbone, priced.longest)
    if longest > cost.longest:
        raise RltrError(
            f"{table} was measured for up to {cost.longest} tokens, but the data have up to {longest}: longer "
            "inputs than it was measured for. Leave cost.table out to measure anew"
        )
    network = TokenPolicy(priced.policy).to(priced.backbone.device)
    passes = time_passes(
        priced.backbone, probes(network, priced.layers), priced.layers, priced.removal, priced.batch, clock=clock
    )
    # Of the machine counts how busy it is now: the stored prices are as good as whole passes find them.
    trust(compare(replace(cost, busy=passes.busy, disagreement=passes.disagreement), passes))
    return cost  # as it was stored, or a run could not be repeated
