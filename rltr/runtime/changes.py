"""Detect changes to a model while rltr is attached: layers added, removed or replaced, modules in training mode.

Inspecting every module in every call would take long. So torch's registration hooks count changes, and the modules are
inspected again only after a change.
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
    """Watch a model for changes, from construction until :meth:`stop`.

    Args:
        model: the whole model.
        base: its submodule that runs the layers.

    Attributes:
        count: number of submodules and parameters registered in the model so far, such as a new layer or weight.
    """

    def __init__(self, model: nn.Module, base: nn.Module) -> None:
        self.count = 0
        self._base = base
        self._parts: list[nn.Module] = []
        self._parts_at = -1
        self._known = WeakSet(model.modules())
        lists = [part for part in base.modules() if isinstance(part, nn.ModuleList)]
        self._lists = [(part, list(part._modules.values())) for part in lists]
        # The hooks are global: torch calls them for every module of every model. They must not keep this model alive.
        reference = WeakMethod(self._count_change)

        def changed(module: nn.Module, _: str, part: nn.Module | nn.Parameter | None) -> None:
            if (count_change := reference()) is not None:
                count_change(module, part)

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
        """Raise if a module of the base, including one that was added later, is in training mode.

        Raises:
            RltrError: if a module whose result may depend on training mode is in it.
        """
        if self.count != self._parts_at:
            self._parts_at = self.count
            self._parts = [part for part in self._base.modules() if _differs_in_training(part)]
        if any(part.training for part in self._parts):
            raise RltrError(
                "the model, or a part of it, is in training mode, in which dropout changes its outputs: call "
                "model.eval()"
            )

    def refuse_other_layers(self) -> None:
        """Raise if layers were added, removed or replaced.

        Raises:
            RltrError: if a module list in the base has other modules than before.
        """
        if any(list(part._modules.values()) != before for part, before in self._lists):
            raise RltrError(
                "layers were added, removed or replaced while rltr was attached, so the decision layers are no longer "
                "the same: detach rltr, and attach again when the model is complete"
            )

    def _count_change(self, module: nn.Module, part: nn.Module | nn.Parameter | None) -> None:
        if module in self._known:
            self._known.update(part.modules() if isinstance(part, nn.Module) else [])
            self.count += 1


def _differs_in_training(part: nn.Module) -> bool:
    """Whether a module's result may depend on training mode; of torch's, only dropout and batch norm do."""
    if type(part).__module__.startswith("torch.nn.modules"):
        return isinstance(part, _DropoutNd | _NormBase)
    return True
