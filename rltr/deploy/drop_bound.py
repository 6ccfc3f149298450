"""One-sided confidence bounds of the mean loss of quality, from paired answers. Pure functions on arrays.

The loss of an input is the dense model's quality minus the reduced model's. Inputs are assumed to be drawn
independently from those of later use. A bound with confidence 0.9 is below the true mean loss in at most one of ten
draws.

If answers are right or wrong, losses are -1, 0 or 1, and there is an exact bound. It was chosen for its power: the
fraction of 1,000 draws in which a loss of at most one point is guaranteed with confidence 0.9, if 1 % of the answers
become wrong and 0.5 % become right (``python -m benchmarks.drop_bounds`` has more):

======  =====  ==========================  =======  =================
inputs  exact  two Clopper-Pearson bounds  betting  Hoeffding-Bentkus
======  =====  ==========================  =======  =================
512     0.28   0.06                        0.08     0
2,000   0.67   0.29                        0.32     0
5,000   0.94   0.69                        0.69     0
======  =====  ==========================  =======  =================

The normal approximation has more power, but its bounds fail too often if few answers change. The betting bound holds
for all bounded losses, so it is used for all other goals.
"""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm

from rltr.errors import RltrError

LARGEST_LOSS = 1.0
"""Largest loss of one input; larger ones are clipped. A quality without a lower bound (D², or a cosine below 0) has no
largest loss, but the betting bound needs one."""

SPARE = 0.01
"""Fraction of the risk (1 - confidence) for the confidence interval of the fraction of answers that become right."""

Losses = Float[NDArray[np.float64], " inputs"]


def drop_bound(losses: Losses, confidence: float, right_or_wrong: bool) -> float:
    """Upper bound of the mean loss with confidence ``confidence``: exact, or by betting.

    Args:
        losses: quality of the dense model's answer minus that of the reduced one's; at least one.
        confidence: above 0, below 1.
        right_or_wrong: whether qualities are 0 or 1, so that losses are -1, 0 or 1.

    Returns:
        At most 1; below 0 where the reduced model is surely better.

    Raises:
        RltrError: if ``right_or_wrong`` is true and a loss is not -1, 0 or 1.
    """
    if not right_or_wrong:
        return betting_bound(losses, confidence)
    if not np.isin(losses, (-1, 0, 1)).all():
        raise RltrError(
            "the goal's right_or_wrong is True, but a quality of one of its answers is neither 0 nor 1: return False "
            "from right_or_wrong"
        )
    return paired_bound(len(losses), int((losses > 0).sum()), int((losses < 0).sum()), confidence)


def paired_bound(inputs: int, lost: int, won: int, confidence: float) -> float:
    """Exact upper bound of a loss of accuracy, from the number of answers that became wrong and that became right.

    It is Buehler's bound (Buehler 1957; Lloyd and Kabaila 2003). Possible outcomes are ordered by an approximate bound.
    The exact bound is the largest mean loss for which an outcome that is not above the observed one has a probability
    of more than ``1 - confidence``. This probability also depends on the fraction of gains, a nuisance parameter: its
    maximum over a confidence interval of that fraction is taken, and the interval's risk is added (Berger and Boos
    1994). Without an observed gain it is close to the Clopper-Pearson bound of the fraction of losses.

    Args:
        inputs: number of inputs, at least 1.
        lost: number of inputs that only the dense model answered correctly.
        won: number of inputs that only the reduced model answered correctly.
        confidence: above 0, below 1.
    """
    if lost == inputs:
        return 1.0
    risk = 1 - confidence
    spare = SPARE * risk
    fewest, most = binomtest(won, inputs).proportion_ci(1 - spare)
    z = float(norm.isf(risk))
    extra = max(1.0, z * z / 4)  # makes the approximate bound rise with every loss and fall with every gain
    guess = lost - won + z * math.sqrt(lost + won + extra)
    gains = np.arange(int(binom.isf(1e-12, inputs, most)) + 1)
    # For each number of gains, the largest number of losses with an approximate bound not above the observed one.
    root = (np.sqrt(np.maximum(z * z + 4 * (guess + 2 * gains + extra), 0)) - z) / 2
    losses = np.floor(np.maximum(root, 0) ** 2 - gains - extra + 1e-9)

    def excess(drop: float) -> float:
        """Probability of an outcome not above the observed one, with mean loss ``drop``, minus the risk."""
        low, high = max(fewest, -drop), min(most, (1 - drop) / 2)
        if low > high:
            return spare - risk  # not possible with any fraction of gains in the interval
        share_won = np.linspace(low, high, 40)[:, None]
        # Of the inputs that are not gains.
        share_lost = np.clip((share_won + drop) / np.maximum(1 - share_won, 1e-12), 0, 1)
        outcomes = binom.pmf(gains, inputs, share_won) * binom.cdf(losses, inputs - gains, share_lost)
        return float(outcomes.sum(1).max()) + spare - risk

    near = min((guess + 3 * extra + z) / inputs, 1.0)  # mostly above the bound, and nearer to it than 1
    return float(brentq(excess, (lost - won) / inputs, near if excess(near) < 0 else 1, xtol=1e-6))


def betting_bound(losses: Losses, confidence: float) -> float:
    """Upper bound of the mean of losses of at most :data:`LARGEST_LOSS`, for any distribution.

    It is the betting bound of Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by
    betting", section 4. For each candidate mean, a wealth process bets input by input that the true mean is lower, with
    stakes that depend on earlier inputs only. If the candidate is the true mean, the wealth exceeds ``1 / (1 -
    confidence)`` with a probability of at most ``1 - confidence``, so candidates with more wealth are excluded. The
    wealth is averaged over several orders of the inputs.

    Args:
        losses: losses in any order; those above the largest loss are clipped.
        confidence: above 0, below 1.
    """
    inputs, target = len(losses), -math.log1p(-confidence)
    generator = np.random.default_rng(0)
    orders = np.stack([generator.permutation(np.minimum(losses, LARGEST_LOSS)) for _ in range(8)])
    # The optimal stake for a known variance, with the variance of the earlier inputs and a prior of 1.
    seen = np.arange(1, inputs + 1)
    means = orders.cumsum(1) / (seen + 1)
    variances = (1 + ((orders - means) ** 2).cumsum(1)) / (seen + 1)
    before = np.concatenate([np.ones((len(orders), 1)), variances[:, :-1]], axis=1)
    stakes = np.sqrt(2 * target / (inputs * before))

    def excess(mean: float) -> float:
        """Logarithm of the wealth against ``mean``, minus the threshold that excludes it."""
        bounded = np.minimum(stakes, 0.9 / (LARGEST_LOSS - mean))  # never the whole wealth
        wealth = np.log1p(bounded * (mean - orders)).sum(1)
        return float(np.logaddexp.reduce(wealth)) - math.log(len(orders)) - target

    seen_mean = float(orders[0].mean())
    highest = LARGEST_LOSS - 1e-9
    if seen_mean >= highest or excess(highest) < 0:
        return LARGEST_LOSS
    return float(brentq(excess, seen_mean, highest, xtol=1e-7))


def fewest_inputs(drop: float, confidence: float) -> int:
    """Smallest number of inputs with which a loss of at most ``drop`` can be guaranteed, if no answer gets worse."""
    return math.ceil(math.log((1 - SPARE) * (1 - confidence)) / math.log1p(-drop))
