"""rltr learns which tokens a frozen Hugging Face transformer can do without.

Train a policy with ``rltr train``, then ``rltr.attach(model, folder, budget=0.6)`` makes the model cheaper in place and
``rltr.detach(model)`` restores it. Importing the package is cheap; torch is loaded when something needs it.
"""

from typing import TYPE_CHECKING, Any

from rltr.errors import RltrError
from rltr.version import __version__

if TYPE_CHECKING:
    from rltr.backbone import Backbone
    from rltr.backbone_check import BackboneReport, check_backbone
    from rltr.export import attach, detach, load_policy
    from rltr.families import Family
    from rltr.reduction import Reduction

_LAZY = {
    "Backbone": "rltr.backbone",
    "BackboneReport": "rltr.backbone_check",
    "Family": "rltr.families",
    "Reduction": "rltr.reduction",
    "attach": "rltr.export",
    "check_backbone": "rltr.backbone_check",
    "detach": "rltr.export",
    "load_policy": "rltr.export",
}

__all__ = [
    "Backbone",
    "BackboneReport",
    "Family",
    "Reduction",
    "RltrError",
    "__version__",
    "attach",
    "check_backbone",
    "detach",
    "load_policy",
]


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for, so that ``rltr --help`` answers at once."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
