"""Build the cost model that a recipe asks for.

FLOPs and tokens are counted. Latencies are measured now, or loaded from a table, and then compared with whole forward
passes.
"""

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
"""Model inputs by keyword."""


@dataclass(frozen=True)
class CostInputs:
    """The model, policy and inputs from which a cost model is made.

    Attributes:
        backbone: the frozen model, on the device where it will run.
        policy: shape of the policy.
        layers: the decision layers.
        removal: whether removed tokens are merged or dropped.
        longest: inputs of the longest row.
        batch: one batch as the model will get it, padding included. Whole passes are timed on it.
    """

    backbone: Backbone
    policy: PolicyConfig
    layers: tuple[int, ...]
    removal: Removal
    longest: Inputs
    batch: Inputs


def make_cost(priced: CostInputs, wanted: CostGroup, clock: Clock = CLOCK) -> CostModel:
    """Build the cost model a recipe asks for, including the cost of running the policy itself.

    Args:
        priced: model, policy and inputs.
        wanted: the recipe's ``cost`` group.
        clock: replaced in tests.

    Raises:
        UnreliablePrices: if measured prices do not predict whole passes, or the machine is too busy. The message does
            not say what to do; the caller adds that.
        RltrError: if this kind of cost is not possible for these layers, or a measured table does not fit the data.
    """
    if wanted.kind == LatencyCost.name:
        return _latency(priced, wanted, clock)
    counted = cast(type[CountedCost], COST_MODELS[wanted.kind])  # the registry has no other kinds
    return counted.for_training(priced.backbone, priced.policy)


def spread(rows: int, examples: int) -> list[int]:
    """Indices of ``rows`` of the ``examples``, evenly spread over the split and repeated if there are too few.

    Data files are often sorted, by class or length for example, and training batches are not.
    """
    return [row * examples // rows if rows <= examples else row % examples for row in range(rows)]


def check_conditions(cost: CostModel, backbone: Backbone) -> None:
    """Check that measured prices are for this model and the current device, dtype and threads.

    Raises:
        RltrError: if not, with both conditions and how to restore the old ones from Python and the command line.
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


def measured_cost(priced: CostInputs, rows: int, clock: Clock = CLOCK) -> LatencyCost:
    """Measure the cost of layers and decisions, then scale it to fit whole passes.

    The result's ``fit`` says how well it predicts whole passes, ``busy`` and ``disagreement`` how busy the machine was.

    Args:
        priced: model, policy and inputs.
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
    """The same prices with the worse of two busy signs: that of measuring parts and that of timing whole passes."""
    worse = cost if cost.disagreement > passes.disagreement else passes
    return replace(cost, busy=worse.busy or cost.busy or passes.busy, disagreement=worse.disagreement)


def _latency(priced: CostInputs, wanted: CostGroup, clock: Clock) -> CostModel:
    try:
        return _measured_or_stored(priced, wanted, clock)
    except UnreliablePrices as error:
        if wanted.when_busy == "refuse":
            raise
        log.warning("%s. FLOPs are counted instead, as cost.when_busy says", error)
        return FlopsCost.for_training(priced.backbone, priced.policy)


def _measured_or_stored(priced: CostInputs, wanted: CostGroup, clock: Clock) -> LatencyCost:
    make = partial(_measured, wanted.batch_size) if wanted.table is None else partial(_stored, wanted.table)
    try:
        return make(priced, clock)
    except UnreliablePrices:
        # Most disturbances are short, so a second attempt often succeeds.
        return make(priced, clock)


def _measured(rows: int, priced: CostInputs, clock: Clock) -> LatencyCost:
    return trust(measured_cost(priced, rows, clock))


def _stored(table: Path, priced: CostInputs, clock: Clock) -> LatencyCost:
    """Load prices measured earlier and compare them with whole passes under the current conditions."""
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
    # How busy the machine was when the table was measured does not matter: whole passes show how good the prices are.
    trust(compare(replace(cost, busy=passes.busy, disagreement=passes.disagreement), passes))
    return cost  # unchanged, so that a run can be repeated exactly
