"""A deep copy of a model that rltr is attached to is the native model, with nothing of rltr's in it."""

import copy
from typing import Any

from transformers import PreTrainedModel

from rltr.front import PLACE, Front

LEFT_OUT = ("__deepcopy__", PLACE)
"""Attributes of modules that a copy must not have."""


def native_copy(model: PreTrainedModel, attention: str, memo: dict[int, Any]) -> PreTrainedModel:
    """Copy a model as ``copy.deepcopy`` does, without what rltr put into it, and with its native attention.

    The model itself is not touched: another thread may be running it.

    Args:
        model: what is copied.
        attention: its attention before rltr was attached.
        memo: deepcopy's own, of what was copied already.
    """
    copied = type(model).__new__(type(model))
    memo[id(model)] = copied
    state = {name: value for name, value in model.__getstate__().items() if name not in LEFT_OUT}
    copied.__setstate__(copy.deepcopy(state, memo))
    for module in copied.modules():
        if isinstance(front := vars(module).get("forward"), Front):
            front.take_away()
        for name in LEFT_OUT:
            vars(module).pop(name, None)
    copied.set_attn_implementation(attention)
    return copied
