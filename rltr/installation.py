"""Where rltr sits in a model: in front of each layer, and in front of the part that runs them, its base.

Both are put in as an attribute ``forward`` of the module, in front of that of its class. So everybody passes them who
calls the module or its ``forward``, and hooks of others see what passes between layers. Whoever needs them holds them:
the backbone that is attached, and every pass that has begun, so that detaching never changes a pass that is running.
They are taken away when nobody holds them any more.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from types import MethodType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from transformers import PreTrainedModel

from rltr.attention import IMPLEMENTATION, current
from rltr.errors import RltrError
from rltr.families import OWN_ATTENTION
from rltr.forward import Forward, Owner
from rltr.native_copy import native_copy

PLACE = "_rltr_installation"
"""Attribute of a base that rltr is installed in."""
BEFORE = "_rltr_forward_before"
"""Attribute of a module that already had a ``forward`` of its own (accelerate puts one in): that one."""
LOCK = RLock()
"""Held while a model is changed; reentrant, since the garbage collector may detach at any time."""

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
        root: the model whose attention is replaced.
        base: its part that runs the layers.
        layers: in the order in which they run.

    Attributes:
        owner: the backbone that is attached; None while only passes that have begun hold.
        server: what makes a reduced pass of calls that nobody asked for; None lets them pass natively.
    """

    def __init__(self, root: PreTrainedModel, base: nn.Module, layers: Sequence[nn.Module]) -> None:
        self.root = root
        self.base = base
        self.layers = tuple(dict.fromkeys(layers))
        self.owner: Owner | None = None
        self.server: Server | None = None
        self._holders = 0
        self._native_attention: str = root.config._attn_implementation

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Nothing: a copy of a base is native."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled with the base.

        Raises:
            RltrError: always.
        """
        raise RltrError(
            "a model that rltr is attached to cannot be pickled (torch.save, multiprocessing): call rltr.detach(model) "
            "first, and attach again where it is loaded. save_pretrained() and state_dict() work while attached"
        )

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

    def _install(self) -> None:
        self._native_attention = self.root.config._attn_implementation
        self.root.set_attn_implementation(IMPLEMENTATION)
        if self.root.config._attn_implementation != IMPLEMENTATION:  # transformers only warns
            raise RltrError(f"{type(self.root).__name__} is not supported: {OWN_ATTENTION}")
        for layer in self.layers:
            _put_in_front(layer, _layer_front(type(layer)))
        vars(self.base)[PLACE] = self
        _put_in_front(self.base, _base_front(type(self.base)))
        vars(self.root)["__deepcopy__"] = self._copy_root  # looked up by copy.deepcopy

    def _remove(self) -> None:
        vars(self.root).pop("__deepcopy__", None)
        for module in (self.base, *self.layers):
            take_away(module)
        vars(self.base).pop(PLACE, None)
        if self.root.config._attn_implementation == IMPLEMENTATION:
            self.root.set_attn_implementation(self._native_attention)

    def _copy_root(self, memo: dict[int, Any]) -> PreTrainedModel:
        return native_copy(self.root, self._native_attention, memo, take_away)


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
        if (
            all(layer in within for layer in layers)
            and root.main_input_name in inspect.signature(part.forward).parameters
        ):
            base = part  # parents come first
    return base


def _put_in_front(module: nn.Module, front: Callable[..., Any]) -> None:
    own = vars(module).get("forward")
    if own is not None:
        vars(module)[BEFORE] = own
    # A bound method, because a copy of the module then gets one that is bound to the copy.
    vars(module)["forward"] = MethodType(front, module)


def take_away(module: nn.Module) -> None:
    """Undo what was put in front of a module's forward; of one that others have covered since, only that it acts."""
    own = vars(module).pop(BEFORE, None)
    if getattr(vars(module).get("forward"), "__func__", None) in (
        _layer_front(type(module)),
        _base_front(type(module)),
    ):
        del vars(module)["forward"]
        if own is not None:
            vars(module)["forward"] = own


def _native_forward(module: nn.Module) -> Callable[..., Any]:
    own: Callable[..., Any] | None = vars(module).get(BEFORE)
    return type(module).forward.__get__(module) if own is None else own


@functools.cache
def _layer_front(kind: type[nn.Module]) -> Callable[..., Any]:
    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stream = current.get()
        native = _native_forward(self)
        if isinstance(stream, Forward) and stream.owner.runs(self):
            return stream.owner.run_layer(stream, self, native, args, kwargs)
        return native(*args, **kwargs)

    return _uncompiled(forward)


@functools.cache
def _base_front(kind: type[nn.Module]) -> Callable[..., Any]:
    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        place = installed_in(self)
        native = _native_forward(self)
        if place is None:  # a copy of the base, or one that has been detached under another's cover
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

    return _uncompiled(forward)


def _uncompiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``torch.compile`` leave a function alone: what it decides depends on the input, so it cannot be recorded."""
    left_alone: Callable[..., Any] = torch.compiler.disable(
        forward, reason="rltr removes tokens depending on the input, so the part it is attached to runs uncompiled"
    )
    return left_alone
