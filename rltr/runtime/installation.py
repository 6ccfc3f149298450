"""Install rltr in a model: wrappers around the ``forward`` of each layer and of the base, the part that runs them.

A wrapper is an instance attribute ``forward``, which takes precedence over the class's method. So it runs whether the
module or its ``forward`` is called, and other hooks still see what passes between layers. Installations are counted:
the attached backbone holds one, and so does every running pass, so that detaching never changes a running pass. The
last release removes the wrappers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.runtime.attention import IMPLEMENTATION, current
from rltr.runtime.changes import Changes
from rltr.runtime.families import OWN_ATTENTION
from rltr.runtime.forward import Forward, Owner
from rltr.runtime.front import INSTALLATION, ForwardWrapper
from rltr.runtime.native_copy import guard_copies, native_copy, unguard_copies

LOCK = RLock()
"""Lock for changing a model; reentrant, since the garbage collector may detach at any time."""
_held_configs: dict[int, tuple[int, str]] = {}
"""By ``id`` of a config: number of installations, and the attention it had before. Models may share a config."""

wanted: ContextVar[Forward | None] = ContextVar("rltr_wanted", default=None)
"""Forward pass to use for the next call of its backbone's base in this thread or greenlet."""


@runtime_checkable
class Server(Protocol):
    """An attached policy, which turns every call of a base into a reduced pass."""

    def begin(self) -> Forward:
        """Return the forward pass to use for a call."""
        ...

    def end(self, forward: Forward | None) -> None:
        """Called after each pass, with None if the pass failed."""
        ...


class Installation:
    """Wrappers and attention installed in one part of a model.

    Args:
        model: the whole model.
        root: the part whose attention is replaced.
        base: the part of the root that runs the layers.
        layers: the layers in the order in which they run.

    Attributes:
        owner: the attached backbone; None after it was detached, even if a pass is still running.
        server: the attached policy; None runs calls natively.
        changes: records changes to the model since the installation; None before.
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
        self._wrappers: list[ForwardWrapper] = []
        self.changes: Changes | None = None
        self._native_attention: str = root.config._attn_implementation

    def hold(self) -> None:
        """Install, if this is the first hold, and stay installed until :meth:`release`."""
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
        """Return the forward pass for a call of the base (None: native), and the server to tell when it has ended."""
        forward = wanted.get()
        if forward is not None and forward.owner is self.owner:
            wanted.set(None)  # one call only
            return forward, None
        server = self.server  # another thread may be detaching
        return (None, None) if server is None else (server.begin(), server)

    def refuse_changes(self) -> None:
        """Raise if the model was changed since rltr was attached, so that it cannot run on fewer tokens.

        Raises:
            RltrError: if another attention was set, layers were added or removed, or a part is in training mode.
        """
        found = self.root.config._attn_implementation
        if found != IMPLEMENTATION:
            raise RltrError(
                f"the model's attention was set to {found!r} while rltr was attached, so it cannot run on fewer "
                f"tokens: detach rltr before you call set_attn_implementation({found!r}), and attach again afterwards"
            )
        assert self.changes is not None
        self.changes.refuse_other_layers()
        self.changes.refuse_training()

    def _install(self) -> None:
        config = self.root.config
        holders, self._native_attention = _held_configs.get(id(config), (0, config._attn_implementation))
        _held_configs[id(config)] = (holders + 1, self._native_attention)
        self.root.set_attn_implementation(IMPLEMENTATION)
        if self.root.config._attn_implementation != IMPLEMENTATION:  # transformers only warns
            raise RltrError(f"{type(self.root).__name__} is not supported: {OWN_ATTENTION}")
        self.changes = Changes(self.model, self.base)
        self._wrappers = [ForwardWrapper(layer, _through_layer) for layer in self.layers]
        vars(self.base)[INSTALLATION] = self
        self._wrappers.append(ForwardWrapper(self.base, _through_base))
        for module in (self.base, *self.layers):
            guard_copies(module)
        guard_copies(self.root, self._copy_root)

    def _remove(self) -> None:
        if self.changes is not None:
            self.changes.stop()
        for module in (self.root, self.base, *self.layers):
            unguard_copies(module)
        for wrapper in reversed(self._wrappers):
            wrapper.remove()
        self._wrappers.clear()
        vars(self.base).pop(INSTALLATION, None)
        config = self.root.config
        holders, _ = _held_configs.pop(id(config), (1, ""))
        if holders > 1:  # another model shares this config
            _held_configs[id(config)] = (holders - 1, self._native_attention)
        elif config._attn_implementation == IMPLEMENTATION:
            self.root.set_attn_implementation(self._native_attention)

    def _copy_root(self, memo: dict[int, Any]) -> nn.Module:
        copied = native_copy(self.root, memo)
        assert isinstance(copied, PreTrainedModel)
        copied.set_attn_implementation(self._native_attention)
        return copied


def installed_in(base: nn.Module) -> Installation | None:
    """Return the installation in a base, or None."""
    found: Installation | None = vars(base).get(INSTALLATION)
    return found


# Which tokens are kept depends on the input; a compiler would record the decisions for one input.
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
    installation = installed_in(base)
    if installation is None:  # another thread has just detached
        return native(*args, **kwargs)
    with installation.held():
        forward, server = installation.next_pass()
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
