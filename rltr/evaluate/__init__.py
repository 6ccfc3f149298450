"""Evaluation: accuracy and measured time of every method in one run."""

from rltr.evaluate.measure import measure
from rltr.evaluate.points import POLICY, UNTRAINED, Measurement, OperatingPoint
from rltr.evaluate.results import Evaluation, read_json, write_json
from rltr.evaluate.usual_points import a_few, baseline_points, policy_points

__all__ = [
    "POLICY",
    "UNTRAINED",
    "Evaluation",
    "Measurement",
    "OperatingPoint",
    "a_few",
    "baseline_points",
    "measure",
    "policy_points",
    "read_json",
    "write_json",
]
