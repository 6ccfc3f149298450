"""Power of several upper bounds on the drop of accuracy: how often each confirms a drop that is within the limit.

    python -m benchmarks.drop_bounds

In each setting, a given fraction of answers becomes wrong and a smaller one becomes right, so that accuracy drops by
less than one point. The table has the fraction of 1,000 draws in which a bound at a confidence of 0.9 is at most one
point. Among bounds that are always valid, a larger fraction is better. Needs a minute or two on one core and no model.

exact              the bound that calibration uses (rltr.deploy.drop_bound.paired_bound).
Clopper-Pearson    the upper bound of the losses minus the lower one of the gains, each with half the risk.
betting            the bound for metrics with values between right and wrong (rltr.deploy.drop_bound.betting_bound).
Hoeffding-Bentkus  the bound for any bounded mean (Bates et al. 2021), as used by Learn then Test.
"""

import math
from functools import lru_cache

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from scipy.special import rel_entr
from scipy.stats import binom, binomtest

from rltr.deploy.drop_bound import betting_bound, paired_bound

CONFIDENCE, DROP, DRAWS = 0.9, 0.01, 1000
SHARES = ((0.002, 0.0), (0.005, 0.002), (0.01, 0.005), (0.02, 0.015))
INPUTS = (300, 512, 1000, 2000, 5000)


def exact(n: int, lost: int, won: int) -> float:
    """The exact paired bound, for ``n`` inputs of which ``lost`` became wrong and ``won`` right."""
    return paired_bound(n, lost, won, CONFIDENCE)


def clopper_pearson(n: int, lost: int, won: int) -> float:
    """Difference of two Clopper-Pearson bounds; arguments as for :func:`exact`."""
    losses, gains = (binomtest(k, n).proportion_ci(CONFIDENCE) for k in (lost, won))
    return float(losses.high - gains.low)


def betting(n: int, lost: int, won: int) -> float:
    """The betting bound; arguments as for :func:`exact`."""
    return betting_bound(np.repeat([1.0, -1.0, 0.0], [lost, won, n - lost - won]), CONFIDENCE)


def hoeffding_bentkus(n: int, lost: int, won: int) -> float:
    """The Hoeffding-Bentkus bound; arguments as for :func:`exact`."""
    seen = (1 + (lost - won) / n) / 2

    def excess(mean: float) -> float:
        less = min(seen, mean)
        distance = float(rel_entr(less, mean) + rel_entr(1 - less, 1 - mean))
        bentkus = math.e * float(binom.cdf(math.ceil(n * seen), n, mean))
        return min(math.exp(-n * distance), bentkus) - (1 - CONFIDENCE)

    return 2 * brentq(excess, seen, 1 - 1e-9) - 1


def main() -> None:
    table = Table("inputs", "become wrong", "become right", "exact", "Clopper-Pearson", "betting", "Hoeffding-Bentkus")
    generator = np.random.default_rng(0)
    bounds = [lru_cache(maxsize=None)(bound) for bound in (exact, clopper_pearson, betting, hoeffding_bentkus)]
    for n in INPUTS:
        for lost, won in SHARES:
            draws = generator.multinomial(n, [lost, won, 1 - lost - won], size=DRAWS).tolist()
            kept = [np.mean([bound(n, wrong, right) <= DROP for wrong, right, _ in draws]) for bound in bounds]
            table.add_row(f"{n:,}", f"{lost:.1%}", f"{won:.1%}", *(f"{share:.2f}" for share in kept))
    Console().print(table)


if __name__ == "__main__":
    main()
