"""A deep copy of a model that rltr is attached to is the native model, with nothing of rltr's on it."""

import copy
from typing import Any

from transformers import PreTrainedModel

HOOKS = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}
"""Where torch keeps a module's hooks by number, and where it notes the numbers of those that are called otherwise."""


def native_copy(model: PreTrainedModel, root: PreTrainedModel, attention: str, memo: dict[int, Any]) -> PreTrainedModel:
    """Copy a model as ``copy.deepcopy`` does, but leave out rltr's hooks and its attention.

    The model itself is not touched: another thread may be running it.

    Args:
        model: what is copied; it may have ``__deepcopy__`` as an attribute of its own, which is left out.
        root: the part of it whose attention was replaced.
        attention: what that was before.
        memo: deepcopy's own, of what was copied already.
    """
    for module in model.modules():
        for kind, notes in HOOKS.items():
            ours = {number for number, hook in getattr(module, kind).items() if _is_ours(hook)}
            # What is in the memo counts as copied: deepcopy takes these in place of copying the whole.
            for hooks in (getattr(module, name) for name in (kind, *notes) if ours):
                others = {number: hook for number, hook in hooks.items() if number not in ours}
                memo[id(hooks)] = type(hooks)(copy.deepcopy(others, memo))
    copied = type(model).__new__(type(model))
    memo[id(model)] = copied
    state = {name: value for name, value in model.__getstate__().items() if name != "__deepcopy__"}
    copied.__setstate__(copy.deepcopy(state, memo))
    memo[id(root)].set_attn_implementation(attention)
    return copied


def _is_ours(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).partition(".")[0] == "rltr"
