"""Taking a policy to production: its folder, attaching it to a model, choosing an operating point."""

from rltr.deploy.attachment import Attachment, attach, detach
from rltr.deploy.calibration import CalibrationPoint, weight_for_budget, weight_for_drop
from rltr.deploy.folder import Policy, describe, load_policy, save_policy

__all__ = [
    "Attachment",
    "CalibrationPoint",
    "Policy",
    "attach",
    "describe",
    "detach",
    "load_policy",
    "save_policy",
    "weight_for_budget",
    "weight_for_drop",
]
