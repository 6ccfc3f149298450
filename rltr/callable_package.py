"""Packages that can be called: ``rltr.train(model, data)`` and ``rltr.evaluate(policy)``.

The learner's package is called ``train`` and the one that measures ``evaluate``; so are the two functions that users
call. A package whose class has ``__call__`` is both.
"""

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that passes calls on to the function of its own name in :mod:`rltr.jobs.api`.

    That is imported with the first call: it lies above the package, and needs everything.
    """

    def _function(self) -> Any:
        return getattr(import_module("rltr.jobs.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's, for ``help`` and editors."""
        return inspect.signature(self._function())


def make_callable(package: str) -> None:
    """Let a package, which is being imported, be called.

    Args:
        package: its name, ``__name__``.
    """
    sys.modules[package].__class__ = CallablePackage
