"""Check measured prices (what keeping a token costs in time) before a training: do they predict whole passes?

If they do not, or the machine is busy, say why and what can be done.
"""

import logging

from rltr.cost import LatencyCost
from rltr.cost.rounds import UNSTEADY
from rltr.errors import RltrError
from rltr.recipe.learning import CostGroup

log = logging.getLogger(__name__)

TOLERATED = 0.15
"""How far a whole pass's relative time may be from what prices predict: beyond, no policy is trained on them."""


class UnreliablePrices(RltrError):
    """Prices are not to be trusted: what was found and the likely cause. What to do depends on who asked."""


class BusyMachine(UnreliablePrices):
    """Repeats of the same work disagree, so times tell what else ran more than what they are times of."""


def advice_in_training(wanted: CostGroup, found: UnreliablePrices) -> str:
    """What to do about prices in a training, as a sentence.

    Args:
        wanted: what the recipe says.
        found: what is wrong with them.
    """
    first = (
        "Stop what else runs on this machine, or wait, and begin again"
        if wanted.table is None or isinstance(found, BusyMachine)
        else "Leave cost.table out to measure anew"
    )
    return (
        f"{first}. To count instead of measuring, set cost.kind=flops"
        f"{' and leave cost.table out' if wanted.table is not None else ''}, or cost.when_busy=flops to do so only "
        "when this happens"
    )


def trust(cost: LatencyCost) -> LatencyCost:
    """The same prices, if they predict whole passes and times agree; says how well, and if the machine was in use.

    Raises:
        BusyMachine: if repeats of the same work disagree.
        UnreliablePrices: if prices do not predict whole passes, with the likely cause. The caller adds what to do.
    """
    fit = cost.fit
    assert fit is not None
    if cost.disagreement > UNSTEADY:
        raise BusyMachine(f"this machine is busy: {cost.busy}")
    if fit.worst_error > TOLERATED:
        said, true = max(zip(fit.predicted, fit.measured, strict=True), key=lambda pair: abs(pair[0] / pair[1] - 1))
        likely = (
            f"this machine is busy: {cost.busy}"
            if cost.busy
            else "likely cause: something else used the machine for a while, or the processor changed its frequency"
        )
        raise UnreliablePrices(
            f"the measured prices do not hold for whole passes: one that takes {true:.2f} of the native time is "
            f"predicted as {said:.2f}, and more than {TOLERATED:.0%} off is not used; {likely}"
        )
    if cost.busy:
        log.warning(
            "this machine is busy: %s. Prices hold even so; what is timed gets surer if nothing else runs", cost.busy
        )
    log.info(
        "prices: relative times of whole passes are predicted within %.0f%%, %.0f%% at worst",
        100 * fit.median_error,
        100 * fit.worst_error,
    )
    return cost
