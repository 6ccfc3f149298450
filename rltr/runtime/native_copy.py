"""Copying of modules that rltr is installed in: deep copies are native, other ways of copying raise.

A shallow copy, or a replica of ``nn.DataParallel``, would share the wrapper around ``forward``, which runs the original
module with the original weights.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from torch import nn

from rltr.errors import RltrError
from rltr.runtime.front import INSTALLATION, ForwardWrapper

GUARDS = ("__deepcopy__", "__getstate__", "_replicate_for_data_parallel")
"""Attributes by which a module is copied: copy.deepcopy, copy.copy and pickle, nn.DataParallel look them up on it."""


def guard_copies(module: nn.Module, deep: Callable[[dict[int, Any]], nn.Module] | None = None) -> None:
    """Allow only deep copies of a module, until :func:`unguard_copies`.

    Args:
        module: the module that rltr is installed in.
        deep: function that makes the deep copy from the memo of ``copy.deepcopy``; None uses :func:`native_copy`.
    """
    deep = deep or partial(native_copy, module)
    vars(module).update(zip(GUARDS, (deep, _refuse, _refuse_replica), strict=True))


def unguard_copies(module: nn.Module) -> None:
    """Undo :func:`guard_copies`."""
    for name in GUARDS:
        vars(module).pop(name, None)


def native_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a module as ``copy.deepcopy`` does, without what rltr installed in it.

    The module itself is not changed, since another thread may be running it.

    Args:
        module: the module to copy.
        memo: the memo of ``copy.deepcopy``.
    """
    copied = type(module).__new__(type(module))
    memo[id(module)] = copied
    state: dict[str, Any] = type(module).__getstate__(module)
    native = {name: value for name, value in state.items() if name not in (*GUARDS, INSTALLATION)}
    copied.__setstate__(copy.deepcopy(native, memo))
    if isinstance(wrapper := vars(copied).get("forward"), ForwardWrapper):
        wrapper.remove()
    return copied


def _refuse() -> NoReturn:
    raise RltrError(
        "a model that rltr is attached to cannot be pickled (torch.save, multiprocessing) or copied by copy.copy, as "
        "the copy would run the original: call rltr.detach(model) first, then attach to the loaded or copied model. "
        "copy.deepcopy gives the native model; save_pretrained() and state_dict() work while attached"
    )


def _refuse_replica() -> NoReturn:
    raise RltrError(
        "nn.DataParallel replicates the model on each device, but replicas of a model that rltr is attached to would "
        "run the original: call rltr.detach(model) first, and attach to a copy.deepcopy of it on each device, or use "
        "one process per device"
    )
