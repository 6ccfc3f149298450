"""A removable wrapper around one module's ``forward``: how rltr gets at a model's calls without editing the model."""

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from rltr.runtime.layers import signature_of

Through: TypeAlias = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called with the module, its own forward, and what it was called with, in order and by name."""
PLACE = "_rltr_installation"
"""Attribute of a module that rltr is installed in."""


class Front:
    """Puts itself in front of a module's ``forward``, as an attribute of the module.

    Others may have put something there before (accelerate does), which is called as the module's own and comes back.
    Others may put something in front of this one later: then it stays where it is, and only passes on.

    Args:
        module: the module.
        through: what every call goes through.
    """

    def __init__(self, module: nn.Module, through: Through) -> None:
        self.module = module
        self.through: Through | None = through
        self.before: Callable[..., Any] | None = vars(module).get("forward")
        self.__signature__ = signature_of(module)  # trainers and pipelines look at it
        vars(module)["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        through = self.through  # another thread may take it away
        return self.native(*args, **kwargs) if through is None else through(self.module, self.native, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Front":
        """A copy of the module gets one that only passes on, to the copy."""
        copied = Front.__new__(Front)
        memo[id(self)] = copied
        copied.module, copied.through = copy.deepcopy(self.module, memo), None
        copied.before, copied.__signature__ = copy.deepcopy(self.before, memo), self.__signature__
        return copied

    @property
    def native(self) -> Callable[..., Any]:
        """The forward that this one is in front of."""
        forward: Callable[..., Any] = type(self.module).forward.__get__(self.module)
        return forward if self.before is None else self.before

    def take_away(self) -> None:
        """Restore the module, or, under something that was put in front later, only pass on."""
        self.through = None
        if vars(self.module).get("forward") is self:
            del vars(self.module)["forward"]
            if self.before is not None:
                vars(self.module)["forward"] = self.before
