"""Detect changes made to a model while rltr is attached: layers put in or taken out, parts set to training mode.

Looking at every module in every call would take long, so torch's registration hooks count changes, and modules are
walked again only after one.
"""

from weakref import WeakMethod, WeakSet, finalize

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils.hooks import RemovableHandle

from rltr.errors import RltrError


class Changes:
    """Watches a model from when it is made until :meth:`stop`.

    Args:
        model: the whole model.
        base: its part that runs the layers.

    Attributes:
        count: how often a module of the whole model was given a part, such as another layer or another weight.
    """

    def __init__(self, model: nn.Module, base: nn.Module) -> None:
        self.count = 0
        self._base = base
        self._parts: list[nn.Module] = []
        self._parts_at = -1
        self._known = WeakSet(model.modules())
        held = [part for part in base.modules() if isinstance(part, nn.ModuleList)]
        self._lists = [(part, list(part._modules.values())) for part in held]
        # Torch calls the hooks for every module of every model, and keeps them, so they must not keep this model.
        note = WeakMethod(self._note)

        def changed(module: nn.Module, _: str, part: nn.Module | nn.Parameter | None) -> None:
            if (change := note()) is not None:
                change(module, part)

        self._hooks: list[RemovableHandle] = [
            register_module_module_registration_hook(changed),
            register_module_parameter_registration_hook(changed),
        ]
        for handle in self._hooks:
            finalize(self, handle.remove)

    def stop(self) -> None:
        """Stop watching and remove the hooks."""
        for handle in self._hooks:
            handle.remove()

    def refuse_training(self) -> None:
        """Raise if the base, or a part of it, is in training mode, parts that were put in since included.

        Raises:
            RltrError: what to do.
        """
        if self.count != self._parts_at:
            self._parts_at = self.count
            self._parts = [part for part in self._base.modules() if _differs_in_training(part)]
        if any(part.training for part in self._parts):
            raise RltrError(
                "the model, or a part of it, is in training mode, where dropout makes it another model: call "
                "model.eval()"
            )

    def refuse_other_layers(self) -> None:
        """Raise if layers were put in, taken out or replaced.

        Raises:
            RltrError: what to do.
        """
        if any(list(held._modules.values()) != before for held, before in self._lists):
            raise RltrError(
                "layers were put in, taken out or replaced while rltr was attached, so decision layers are not where "
                "they were: detach rltr, and attach again once the model is as it should be"
            )

    def _note(self, module: nn.Module, part: nn.Module | nn.Parameter | None) -> None:
        if module in self._known:
            self._known.update(part.modules() if isinstance(part, nn.Module) else [])
            self.count += 1


def _differs_in_training(part: nn.Module) -> bool:
    """Whether a module may compute something else in training mode: of torch's own, dropout and batch norms do."""
    if type(part).__module__.startswith("torch.nn.modules"):
        return isinstance(part, _DropoutNd | _NormBase)
    return True
