"""Evaluation: quality and measured time of a policy and of all baselines in one run.

``rltr.evaluate(policy)`` compares a policy with the baselines: see :func:`rltr.jobs.api.evaluate`.
"""

from rltr.callable_package import make_callable
from rltr.evaluate.measure import measure
from rltr.evaluate.points import POLICY, UNTRAINED, Measurement, OperatingPoint
from rltr.evaluate.results import Evaluation, read_json, write_json
from rltr.evaluate.standard_points import baseline_points, evenly_spaced, policy_points

__all__ = [
    "POLICY",
    "UNTRAINED",
    "Evaluation",
    "Measurement",
    "OperatingPoint",
    "evenly_spaced",
    "baseline_points",
    "measure",
    "policy_points",
    "read_json",
    "write_json",
]

make_callable(__name__)
