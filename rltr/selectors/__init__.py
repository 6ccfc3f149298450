"""Selectors: rules that say which tokens to keep, one file per method.

To add one, write a file and a line in ``BASELINES``, or an entry point ``rltr.selectors`` in another package. Its input
is a :class:`rltr.runtime.decision.Decision`.
"""

from rltr.errors import RltrError
from rltr.selectors.base import KeepRate, Ranking, Selector
from rltr.selectors.cls_attention import ClsAttention
from rltr.selectors.none import KeepAll
from rltr.selectors.norm import Norm
from rltr.selectors.random import RandomChoice
from rltr.selectors.redundancy import LeastRedundant
from rltr.selectors.tome import ToMe
from rltr.selectors.uniform import Uniform
from rltr.system.registry import Registry

BASELINES: Registry[KeepRate] = Registry(
    "rltr.selectors",
    {
        "random": RandomChoice,
        "norm": Norm,
        "cls_attention": ClsAttention,
        "tome": ToMe,
        "uniform": Uniform,
        "redundancy": LeastRedundant,
    },
    base=KeepRate,
)
"""Baselines with a keep rate, by their name in recipes and reports; other packages add theirs by entry points."""


def baseline(name: str, keep_rate: float) -> KeepRate:
    """Make the baseline ``name`` with a keep rate.

    Raises:
        RltrError: if there is no such baseline, or ``keep_rate`` is out of range.
    """
    if name not in BASELINES:
        raise RltrError(f"there is no selector {name!r}; choose one of {', '.join(BASELINES)}")
    return BASELINES[name](keep_rate)


__all__ = [
    "BASELINES",
    "ClsAttention",
    "KeepAll",
    "KeepRate",
    "LeastRedundant",
    "Norm",
    "RandomChoice",
    "Ranking",
    "Selector",
    "ToMe",
    "Uniform",
    "baseline",
]
