"""Check measured prices (the time that keeping a token costs) before a training: do they predict whole passes?

If they do not, or the machine is too busy, an error gives the likely cause and the fix.
"""

import logging

from rltr.cost import LatencyCost
from rltr.cost.rounds import UNSTEADY
from rltr.errors import RltrError
from rltr.recipe.learning import CostGroup

log = logging.getLogger(__name__)

TOLERATED = 0.15
"""Largest accepted relative error of the predicted time of a whole pass, as a fraction."""


class UnreliablePrices(RltrError):
    """Measured prices are unreliable. The message gives finding and likely cause; the caller adds the fix."""


class BusyMachine(UnreliablePrices):
    """Repeats of the same work take different times, because other processes use the machine."""


def advice_in_training(wanted: CostGroup, found: UnreliablePrices) -> str:
    """Say how to fix unreliable prices in a training, as the last sentence of an error.

    Args:
        wanted: the recipe's ``cost`` group.
        found: the error.
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
    """Return the same prices if they are reliable; log how well they predict whole passes.

    Raises:
        BusyMachine: if repeats of the same work take too different times.
        UnreliablePrices: if prices do not predict whole passes, with the likely cause. The caller adds the fix.
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
            f"predicted to take {said:.2f}, and at most {TOLERATED:.0%} of error are accepted; {likely}"
        )
    if cost.busy:
        log.warning(
            "this machine is busy: %s. Prices still hold, but times are more precise if nothing else runs", cost.busy
        )
    log.info(
        "prices: error of the predicted time of whole passes: median %.0f%%, largest %.0f%%",
        100 * fit.median_error,
        100 * fit.worst_error,
    )
    return cost
