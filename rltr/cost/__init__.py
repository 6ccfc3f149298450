"""Cost models: what keeping tokens costs, in FLOPs or in measured seconds."""

from typing import Any

from rltr.cost.flops import FlopsCost
from rltr.cost.latency import LatencyCost
from rltr.cost.model import CostModel, dense, span
from rltr.errors import RltrError
from rltr.system.machine import Machine

__all__ = ["COST_MODELS", "CostModel", "FlopsCost", "LatencyCost", "Machine", "dense", "from_dict", "span"]

COST_MODELS: dict[str, type[CostModel]] = {model.name: model for model in (FlopsCost, LatencyCost)}
"""Cost models by name. A new one: copy ``flops.py``, add the class here and one to the tests' ``cost`` fixture."""


def from_dict(data: dict[str, Any]) -> CostModel:
    """Rebuild any cost model from its ``to_dict``.

    Raises:
        RltrError: if ``data["name"]`` is no known cost model, or the rest does not fit it.
    """
    name = data.get("name")
    if not isinstance(name, str) or name not in COST_MODELS:
        raise RltrError(f"there is no cost model {name!r}. Valid names: {', '.join(sorted(COST_MODELS))}")
    return COST_MODELS[name].from_dict(data)
