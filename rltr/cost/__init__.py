"""Cost models: the cost of a forward pass by tokens per row, in FLOPs or in measured seconds."""

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

To add one to rltr, copy ``flops.py``, and add the class here and to the fixture ``cost`` of the tests.
"""


def from_dict(data: dict[str, Any]) -> CostModel:
    """Rebuild a cost model of any kind from its ``to_dict``.

    Raises:
        RltrError: if ``data["name"]`` is not a known cost model, or the other fields do not fit it.
    """
    name = data.get("name")
    if not isinstance(name, str) or name not in COST_MODELS:
        raise RltrError(f"there is no cost model {name!r}. Valid names: {', '.join(sorted(COST_MODELS))}")
    return COST_MODELS[name].from_dict(data)
