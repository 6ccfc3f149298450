"""How much quality is lost at most: one-sided bounds from paired answers. Pure functions on arrays.

Each input's loss is the dense model's quality minus the reduced one's. Inputs are taken as drawn independently from
what the model will see. A bound at a confidence of 0.9 is below the true mean loss in at most one of ten draws.

Which bound it is depends on what losses can be. Answers that are right or wrong have losses of -1, 0 and 1, and an
exact bound. Chosen by power, the share of 1,000 draws in which a drop of one point is promised at a confidence of 0.9,
where 1 % of the answers become wrong and 0.5 % right (``python -m benchmarks.drop_bounds`` has more):

======  =====  ==========================  =======  =================
inputs  exact  two Clopper-Pearson bounds  betting  Hoeffding-Bentkus
======  =====  ==========================  =======  =================
512     0.28   0.06                        0.08     0
2,000   0.67   0.29                        0.32     0
5,000   0.94   0.69                        0.69     0
======  =====  ==========================  =======  =================

The normal approximation promises more, and does not keep it where few answers change. Betting holds for all bounded
losses, so it serves where answers are more or less right.
"""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm

from rltr.errors import RltrError

LARGEST_LOSS = 1.0
"""What one input can lose at most, from perfect to worthless. A quality without a lower end (D², or a cosine below 0)
would need a bound on what can be lost, so more than this counts as this."""

SPARE = 0.01
"""Share of the risk that is spent on leaving out shares of gains that are not in accord with those seen."""

Losses = Float[NDArray[np.float64], " inputs"]


def drop_bound(losses: Losses, confidence: float, right_or_wrong: bool) -> float:
    """The mean loss that is not exceeded, as sure as ``confidence``: exact, or by betting.

    Args:
        losses: quality of the dense model's answer minus that of the reduced one's; at least one.
        confidence: above 0, below 1.
        right_or_wrong: whether qualities are 0 or 1, so that losses are -1, 0 or 1.

    Returns:
        At most 1; below 0 where the reduced model is surely better.

    Raises:
        RltrError: if a loss is something else than -1, 0 or 1 though answers are right or wrong.
    """
    if not right_or_wrong:
        return betting_bound(losses, confidence)
    if not np.isin(losses, (-1, 0, 1)).all():
        raise RltrError(
            "this goal says that its answers are right or wrong (`right_or_wrong`), but a quality is neither 0 nor 1: "
            "let it say False there"
        )
    return paired_bound(len(losses), int((losses > 0).sum()), int((losses < 0).sum()), confidence)


def paired_bound(inputs: int, lost: int, won: int, confidence: float) -> float:
    """Exact upper bound of a loss of accuracy, from the number of answers that became wrong and that became right.

    It is Buehler's bound (Buehler 1957; Lloyd and Kabaila 2003): possible outcomes are put in order of a first guess at
    the bound, and the bound is the largest loss with which an outcome no higher than the one seen has a probability
    above ``1 - confidence``. That probability depends on how common gains are, too: it is the largest over all shares
    of gains that are in accord with those seen, and the risk that the true share is none of them is added (Berger and
    Boos 1994). Without a gain seen it is about Clopper's and Pearson's bound of the share that is lost.

    Args:
        inputs: how many were answered by both models, at least 1.
        lost: how many only the dense model got right.
        won: how many only the reduced model got right.
        confidence: above 0, below 1.
    """
    if lost == inputs:
        return 1.0
    risk = 1 - confidence
    spare = SPARE * risk
    fewest, most = binomtest(won, inputs).proportion_ci(1 - spare)
    z = float(norm.isf(risk))
    extra = max(1.0, z * z / 4)  # with it, the first guess rises with every loss and falls with every gain
    guess = lost - won + z * math.sqrt(lost + won + extra)
    gains = np.arange(int(binom.isf(1e-12, inputs, most)) + 1)
    # For each number of gains, the most losses with which the first guess is not above the one seen.
    root = (np.sqrt(np.maximum(z * z + 4 * (guess + 2 * gains + extra), 0)) - z) / 2
    losses = np.floor(np.maximum(root, 0) ** 2 - gains - extra + 1e-9)

    def excess(drop: float) -> float:
        """How far the probability of being seen so low, with a mean loss of ``drop``, is above the risk."""
        low, high = max(fewest, -drop), min(most, (1 - drop) / 2)
        if low > high:
            return spare - risk  # no share of gains in accord with those seen leaves room for it
        share_won = np.linspace(low, high, 40)[:, None]
        share_lost = np.clip((share_won + drop) / np.maximum(1 - share_won, 1e-12), 0, 1)  # of what is not won
        outcomes = binom.pmf(gains, inputs, share_won) * binom.cdf(losses, inputs - gains, share_lost)
        return float(outcomes.sum(1).max()) + spare - risk

    near = min((guess + 3 * extra + z) / inputs, 1.0)  # mostly above the bound, and nearer to it than 1
    return float(brentq(excess, (lost - won) / inputs, near if excess(near) < 0 else 1, xtol=1e-6))


def betting_bound(losses: Losses, confidence: float) -> float:
    """Upper bound of the mean of losses that are at most :data:`LARGEST_LOSS`, whatever else their distribution is.

    Somebody bets, input after input, that the mean is below some value, with stakes that depend on what was seen before
    (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", section 4). If it is not,
    the odds of ever being ``1 / (1 - confidence)`` times richer are at most ``1 - confidence``; so all values at which
    the bets ended that rich are ruled out. What the order of inputs does is evened out by betting in several.

    Args:
        losses: in any order; what is above the largest loss counts as that.
        confidence: above 0, below 1.
    """
    inputs, target = len(losses), -math.log1p(-confidence)
    generator = np.random.default_rng(0)
    orders = np.stack([generator.permutation(np.minimum(losses, LARGEST_LOSS)) for _ in range(8)])
    # The best stake for a known variance, and that of what was seen before, beginning as if half were lost, half won.
    seen = np.arange(1, inputs + 1)
    means = orders.cumsum(1) / (seen + 1)
    variances = (1 + ((orders - means) ** 2).cumsum(1)) / (seen + 1)
    before = np.concatenate([np.ones((len(orders), 1)), variances[:, :-1]], axis=1)
    stakes = np.sqrt(2 * target / (inputs * before))

    def excess(mean: float) -> float:
        """Logarithm of the wealth after betting against ``mean``, above what rules it out."""
        bounded = np.minimum(stakes, 0.9 / (LARGEST_LOSS - mean))  # never all of it
        wealth = np.log1p(bounded * (mean - orders)).sum(1)
        return float(np.logaddexp.reduce(wealth)) - math.log(len(orders)) - target

    seen_mean = float(orders[0].mean())
    highest = LARGEST_LOSS - 1e-9
    if seen_mean >= highest or excess(highest) < 0:
        return LARGEST_LOSS
    return float(brentq(excess, seen_mean, highest, xtol=1e-7))


def fewest_inputs(drop: float, confidence: float) -> int:
    """How many inputs it takes at least to be so sure of a drop, even if not one answer gets worse."""
    return math.ceil(math.log((1 - SPARE) * (1 - confidence)) / math.log1p(-drop))
