"""A removable wrapper around one module's ``forward``, which lets rltr intercept a model's calls."""

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from rltr.runtime.layers import signature_of

Handler: TypeAlias = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called with the module, its own forward, and the positional and keyword arguments of the call."""
INSTALLATION = "_rltr_installation"
"""Attribute of a module that rltr is installed in."""


class ForwardWrapper:
    """A wrapper around a module's ``forward``, set as an instance attribute of the module.

    The module may have such a wrapper already, as accelerate sets one: it is called as the module's own forward, and
    restored at the end. If another library wraps this wrapper later, it cannot be removed; then it only forwards calls.

    Args:
        module: the module.
        handler: receives every call.
    """

    def __init__(self, module: nn.Module, handler: Handler) -> None:
        self.module = module
        self.handler: Handler | None = handler
        self.before: Callable[..., Any] | None = vars(module).get("forward")
        self.__signature__ = signature_of(module)  # trainers and pipelines look at it
        vars(module)["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        handler = self.handler  # read once: another thread may set it to None
        return self.native(*args, **kwargs) if handler is None else handler(self.module, self.native, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ForwardWrapper":
        """A wrapper of the copied module that only forwards calls."""
        copied = ForwardWrapper.__new__(ForwardWrapper)
        memo[id(self)] = copied
        copied.module, copied.handler = copy.deepcopy(self.module, memo), None
        copied.before, copied.__signature__ = copy.deepcopy(self.before, memo), self.__signature__
        return copied

    @property
    def native(self) -> Callable[..., Any]:
        """The wrapped forward."""
        forward: Callable[..., Any] = type(self.module).forward.__get__(self.module)
        return forward if self.before is None else self.before

    def remove(self) -> None:
        """Restore the module's forward; if another wrapper was set later, only forward calls from now on."""
        self.handler = None
        if vars(self.module).get("forward") is self:
            del vars(self.module)["forward"]
            if self.before is not None:
                vars(self.module)["forward"] = self.before
