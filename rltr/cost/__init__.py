"""Cost models: what keeping tokens costs, in FLOPs or in measured seconds."""

from typing import Any

from rltr.cost.flops import FlopsCost
from rltr.cost.latency import LatencyCost
from rltr.cost.model import CostModel, CountedCost, dense, span
from rltr.errors import RltrError
from rltr.system.machine import Machine
from rltr.system.registry import Registry

__all__ = [
    "COST_MODELS",
    "CostModel",
    "CountedCost",
    "FlopsCost",
    "LatencyCost",
    "Machine",
    "dense",
    "from_dict",
    "span",
]

COST_MODELS: Registry[CostModel] = Registry(
    "rltr.cost_models",
    {model.name: model for model in (FlopsCost, LatencyCost)},
    members=(
        "name",
        "unit",
        "depth",
        "layer",
        "decision",
        "outside",
        "native_pass",
        "to_dict",
        "from_dict",
        "for_training",
    ),
)
"""Cost models by name; packages add theirs by entry points in ``rltr.cost_models``.

A new one here: copy ``flops.py``, add the class here and one to the tests' ``cost`` fixture.
"""


def from_dict(data: dict[str, Any]) -> CostModel:
    """Rebuild any cost model from its ``to_dict``.

    Raises:
        RltrError: if ``data["name"]`` is no known cost model, or the rest does not fit it.
    """
    name = data.get("name")
    if not isinstance(name, str) or name not in COST_MODELS:
        raise RltrError(f"there is no cost model {name!r}. Valid names: {', '.join(sorted(COST_MODELS))}")
    return COST_MODELS[name].from_dict(data)
