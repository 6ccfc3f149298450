"""rltr learns which tokens a frozen Hugging Face transformer can do without.

``run = rltr.train(model, data)`` trains a policy, ``rltr.attach(model, run.policy, budget=0.6)`` makes the model
cheaper in place, ``rltr.detach(model)`` restores it, and ``rltr.evaluate(run)`` measures what is lost and gained. The
command ``rltr`` does the same. Importing the package is cheap; torch is loaded when something needs it.
"""

from typing import TYPE_CHECKING, Any

from rltr.errors import RltrError
from rltr.version import __version__

if TYPE_CHECKING:
    from rltr.check.user_models import BackboneReport, check_backbone
    from rltr.deploy import Attachment, Policy, attach, detach, load_policy
    from rltr.evaluate.results import Evaluation
    from rltr.jobs.api import evaluate, train
    from rltr.jobs.run import Run
    from rltr.runtime.backbone import Backbone
    from rltr.runtime.families import Family
    from rltr.selectors.reduced_model import ReducedModel
    from rltr.tasks import load_task

_LAZY = {
    "Attachment": "rltr.deploy",
    "Backbone": "rltr.runtime.backbone",
    "BackboneReport": "rltr.check.user_models",
    "Evaluation": "rltr.evaluate.results",
    "Family": "rltr.runtime.families",
    "Policy": "rltr.deploy",
    "ReducedModel": "rltr.selectors.reduced_model",
    "Run": "rltr.jobs.run",
    "attach": "rltr.deploy",
    "check_backbone": "rltr.check.user_models",
    "detach": "rltr.deploy",
    "load_policy": "rltr.deploy",
    "load_task": "rltr.tasks",
}

_CALLABLE = ("evaluate", "train")
"""Packages that can be called, too: :mod:`rltr.callable_package`."""

__all__ = [
    "Attachment",
    "Backbone",
    "BackboneReport",
    "Evaluation",
    "Family",
    "Policy",
    "ReducedModel",
    "RltrError",
    "Run",
    "__version__",
    "attach",
    "check_backbone",
    "detach",
    "evaluate",
    "load_policy",
    "load_task",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for, so that ``rltr --help`` answers at once."""
    from importlib import import_module

    if name in _CALLABLE:
        return import_module(f"rltr.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
