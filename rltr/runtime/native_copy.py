"""Copies of what rltr is put into: deep ones are native and stand alone, all others would run the original.

A shallow copy, and a replica of ``nn.DataParallel``, take over what stands in front of a module, which goes on to run
that module and its weights. Nothing tells it who was called, so such copies are refused when they are made.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from torch import nn

from rltr.errors import RltrError
from rltr.runtime.front import PLACE, Front

GUARDS = ("__deepcopy__", "__getstate__", "_replicate_for_data_parallel")
"""Attributes by which a module is copied: copy.deepcopy, copy.copy and pickle, nn.DataParallel look them up on it."""


def guard_copies(module: nn.Module, deep: Callable[[dict[int, Any]], nn.Module] | None = None) -> None:
    """Let a module be copied deeply only, until :func:`unguard_copies`.

    Args:
        module: what rltr is put into.
        deep: how it is copied deeply, given the memo of ``copy.deepcopy``; by default as :func:`native_copy` does.
    """
    deep = deep or partial(native_copy, module)
    vars(module).update(zip(GUARDS, (deep, _refuse, _refuse_replica), strict=True))


def unguard_copies(module: nn.Module) -> None:
    """Let a module be copied as before."""
    for name in GUARDS:
        vars(module).pop(name, None)


def native_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a module as ``copy.deepcopy`` does, without what rltr put into it.

    The module itself is not touched: another thread may be running it.

    Args:
        module: what is copied.
        memo: deepcopy's own, of what was copied already.
    """
    copied = type(module).__new__(type(module))
    memo[id(module)] = copied
    state: dict[str, Any] = type(module).__getstate__(module)
    native = {name: value for name, value in state.items() if name not in (*GUARDS, PLACE)}
    copied.__setstate__(copy.deepcopy(native, memo))
    if isinstance(front := vars(copied).get("forward"), Front):
        front.take_away()
    return copied


def _refuse() -> NoReturn:
    raise RltrError(
        "a model that rltr is attached to cannot be pickled (torch.save, multiprocessing) or copied by copy.copy, as a "
        "copy would run this one: call rltr.detach(model) first, and attach again to what was loaded or copied. "
        "copy.deepcopy gives the native model; save_pretrained() and state_dict() work while attached"
    )


def _refuse_replica() -> NoReturn:
    raise RltrError(
        "nn.DataParallel makes a replica of the model for each device, and replicas of one that rltr is attached to "
        "would run this one: call rltr.detach(model) first, and attach to a copy.deepcopy of it on each device, or use "
        "one process for each device"
    )
