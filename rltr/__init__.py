"""rltr learns which tokens a frozen Hugging Face transformer can do without.

Train a policy with ``rltr train``, then ``rltr.attach(model, folder, budget=0.6)`` makes the model cheaper in place and
``rltr.detach(model)`` restores it. Importing the package is cheap; torch is loaded when something needs it.
"""

from typing import TYPE_CHECKING, Any

from rltr.errors import RltrError
from rltr.version import __version__

if TYPE_CHECKING:
    from rltr.check.user_models import BackboneReport, check_backbone
    from rltr.deploy import Attachment, Policy, attach, detach, load_policy
    from rltr.runtime.backbone import Backbone
    from rltr.runtime.families import Family
    from rltr.selectors.reduced_model import ReducedModel
    from rltr.tasks import load_task

_LAZY = {
    "Attachment": "rltr.deploy",
    "Backbone": "rltr.runtime.backbone",
    "BackboneReport": "rltr.check.user_models",
    "Family": "rltr.runtime.families",
    "Policy": "rltr.deploy",
    "ReducedModel": "rltr.selectors.reduced_model",
    "attach": "rltr.deploy",
    "check_backbone": "rltr.check.user_models",
    "detach": "rltr.deploy",
    "load_policy": "rltr.deploy",
    "load_task": "rltr.tasks",
}

__all__ = [
    "Attachment",
    "Backbone",
    "BackboneReport",
    "Family",
    "Policy",
    "ReducedModel",
    "RltrError",
    "__version__",
    "attach",
    "check_backbone",
    "detach",
    "load_policy",
    "load_task",
]


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for, so that ``rltr --help`` answers at once."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
