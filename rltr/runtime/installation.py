"""Where rltr sits in a model: in front of each layer, and in front of the part that runs them, its base.

Both are put in as an attribute ``forward`` of the module, in front of that of its class. So everybody passes them who
calls the module or its ``forward``, and hooks of others see what passes between layers. Whoever needs them holds them:
the backbone that is attached, and every pass that has begun, so that detaching never changes a pass that is running.
They are taken away when nobody holds them any more.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any, Protocol, runtime_checkable
from weakref import WeakMethod, WeakSet, finalize

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.runtime.attention import IMPLEMENTATION, current
from rltr.runtime.families import OWN_ATTENTION
from rltr.runtime.forward import Forward, Owner
from rltr.runtime.front import PLACE, Front
from rltr.runtime.layers import signature_of
from rltr.runtime.native_copy import guard_copies, native_copy, unguard_copies

LOCK = RLock()
"""Held while a model is changed; reentrant, since the garbage collector may detach at any time."""
_held_configs: dict[int, tuple[int, str]] = {}
"""Installations by the identity of a config whose attention they replaced, and what it was: models may share one."""

wanted: ContextVar[Forward | None] = ContextVar("rltr_wanted", default=None)
"""The pass that the next call of its backbone's base in this thread or greenlet becomes."""


@runtime_checkable
class Server(Protocol):
    """Makes every call of a base a reduced pass: an attached policy."""

    def begin(self) -> Forward:
        """The pass that a call becomes."""
        ...

    def end(self, forward: Forward | None) -> None:
        """Called after each, with None if it failed."""
        ...


class Installation:
    """rltr in one part of a model.

    Args:
        model: the whole model.
        root: the part of it whose attention is replaced.
        base: the root's part that runs the layers.
        layers: in the order in which they run.

    Attributes:
        owner: the backbone that is attached; None while only passes that have begun hold.
        server: what makes a reduced pass of calls that nobody asked for; None lets them pass natively.
        changes: how often a module of the whole model was given a part, such as another layer or another weight, since
            rltr was put in.
    """

    def __init__(
        self, model: PreTrainedModel, root: PreTrainedModel, base: nn.Module, layers: Sequence[nn.Module]
    ) -> None:
        self.model = model
        self.root = root
        self.base = base
        self.layers = tuple(dict.fromkeys(layers))
        self.owner: Owner | None = None
        self.server: Server | None = None
        self._holders = 0
        self._fronts: list[Front] = []
        self.changes = 0
        self._parts: list[nn.Module] = []
        self._parts_at = -1
        self._known: WeakSet[nn.Module] = WeakSet()
        self._lists: list[tuple[nn.Module, list[nn.Module | None]]] = []
        self._on_change: list[RemovableHandle] = []
        self._native_attention: str = root.config._attn_implementation

    def hold(self) -> None:
        """Keep rltr in the model until :meth:`release`."""
        with LOCK:
            self._holders += 1
            if self._holders == 1:
                try:
                    self._install()
                except BaseException:
                    self.release()
                    raise

    def release(self) -> None:
        """Undo one :meth:`hold`; the last one restores the model."""
        with LOCK:
            self._holders -= 1
            if self._holders == 0:
                self._remove()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold for the length of a ``with`` block."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def next_pass(self) -> tuple[Forward | None, Server | None]:
        """What a call of the base becomes, and who is told when it has ended; None for a native call."""
        forward = wanted.get()
        if forward is not None and forward.owner is self.owner:
            wanted.set(None)  # one call only
            return forward, None
        server = self.server  # another thread may be detaching
        return (None, None) if server is None else (server.begin(), server)

    def refuse_other_attention(self) -> None:
        """Raise if somebody has set another attention since rltr was attached.

        Raises:
            RltrError: with what was set.
        """
        found = self.root.config._attn_implementation
        if found != IMPLEMENTATION:
            raise RltrError(
                f"the model's attention was set to {found!r} while rltr was attached, so tokens cannot leave: detach "
                f"rltr before you call set_attn_implementation({found!r}), and attach again afterwards"
            )

    def parts(self) -> list[nn.Module]:
        """The parts of the base that compute something else in training mode, those put in since included."""
        changes = self.changes
        if changes != self._parts_at:
            self._parts = [part for part in self.base.modules() if _differs_in_training(part)]
            self._parts_at = changes
        return self._parts

    def refuse_other_layers(self) -> None:
        """Raise if layers were put in or taken out since rltr was attached.

        Raises:
            RltrError: what to do.
        """
        if any(list(held._modules.values()) != before for held, before in self._lists):
            raise RltrError(
                "layers were put in, taken out or replaced while rltr was attached, so decision layers are not where "
                "they were: detach rltr, and attach again once the model is as it should be"
            )

    def _install(self) -> None:
        config = self.root.config
        holders, self._native_attention = _held_configs.get(id(config), (0, config._attn_implementation))
        _held_configs[id(config)] = (holders + 1, self._native_attention)
        self.root.set_attn_implementation(IMPLEMENTATION)
        if self.root.config._attn_implementation != IMPLEMENTATION:  # transformers only warns
            raise RltrError(f"{type(self.root).__name__} is not supported: {OWN_ATTENTION}")
        # A walk over all modules at every call would take long: only when one of them was given a new part.
        # Torch calls the hooks for every module of every model, and keeps them, so they must not keep this model.
        self._known, self._parts_at = WeakSet(self.model.modules()), -1
        note = WeakMethod(self._note_change)

        def changed(module: nn.Module, _: str, part: nn.Module | nn.Parameter | None) -> None:
            if (change := note()) is not None:
                change(module, part)

        self._on_change = [
            register_module_module_registration_hook(changed),
            register_module_parameter_registration_hook(changed),
        ]
        for handle in self._on_change:
            finalize(self, handle.remove)
        held = [part for part in self.base.modules() if isinstance(part, nn.ModuleList)]
        self._lists = [(part, list(part._modules.values())) for part in held]
        self._fronts = [Front(layer, _through_layer) for layer in self.layers]
        vars(self.base)[PLACE] = self
        self._fronts.append(Front(self.base, _through_base))
        for module in (self.base, *self.layers):
            guard_copies(module)
        guard_copies(self.root, self._copy_root)

    def _note_change(self, module: nn.Module, part: nn.Module | nn.Parameter | None) -> None:
        if module in self._known:
            self._known.update(part.modules() if isinstance(part, nn.Module) else [])
            self.changes += 1

    def _remove(self) -> None:
        for handle in self._on_change:
            handle.remove()
        for module in (self.root, self.base, *self.layers):
            unguard_copies(module)
        for front in reversed(self._fronts):
            front.take_away()
        self._fronts.clear()
        vars(self.base).pop(PLACE, None)
        config = self.root.config
        holders, _ = _held_configs.pop(id(config), (1, ""))
        if holders > 1:  # another model with this very config still needs it
            _held_configs[id(config)] = (holders - 1, self._native_attention)
        elif config._attn_implementation == IMPLEMENTATION:
            self.root.set_attn_implementation(self._native_attention)

    def _copy_root(self, memo: dict[int, Any]) -> nn.Module:
        copied = native_copy(self.root, memo)
        assert isinstance(copied, PreTrainedModel)
        copied.set_attn_implementation(self._native_attention)
        return copied


def installed_in(base: nn.Module) -> Installation | None:
    """Rltr in a base; None if it is not there."""
    found: Installation | None = vars(base).get(PLACE)
    return found


def find_base(root: PreTrainedModel, layers: Sequence[nn.Module]) -> nn.Module:
    """The innermost part of a model that runs all of its layers and takes the model's own input.

    It is where all names of inputs are known, whoever calls it: a head, a larger model, or a user.
    """
    base: nn.Module = root
    for part in root.modules():
        within = set(part.modules())
        if all(layer in within for layer in layers) and root.main_input_name in signature_of(part).parameters:
            base = part  # parents come first
    return base


# What is decided depends on the input, so a compiler could only record what it decided for one.
_uncompiled = torch.compiler.disable(
    reason="rltr removes tokens depending on the input, so the part it is attached to runs uncompiled"
)


@_uncompiled
def _through_layer(layer: nn.Module, native: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    stream = current.get()
    if isinstance(stream, Forward) and stream.owner.runs(layer):
        return stream.owner.run_layer(stream, layer, native, args, kwargs)
    return native(*args, **kwargs)


@_uncompiled
def _through_base(base: nn.Module, native: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    place = installed_in(base)
    if place is None:  # another thread has just detached
        return native(*args, **kwargs)
    with place.held():
        forward, server = place.next_pass()
        if forward is None:
            return native(*args, **kwargs)
        ended = None
        try:
            output = forward.owner.run_base(forward, native, args, kwargs)
            ended = forward
        finally:
            if server is not None:
                server.end(ended)
        return output


def _differs_in_training(part: nn.Module) -> bool:
    """Whether a module may compute something else in training mode: of torch's own, dropout and batch norms do."""
    if type(part).__module__.startswith("torch.nn.modules"):
        return isinstance(part, _DropoutNd | _NormBase)
    return True
