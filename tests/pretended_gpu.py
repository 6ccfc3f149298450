"""A simulated GPU: tensors that report another device and compute on the CPU.

What a program does on a GPU depends on the device that tensors report. So the code path of a GPU runs on any machine,
with real numbers, and errors that would occur only there occur here:

- an operation on tensors of two devices is refused, as CUDA refuses it;
- every time the host would wait for the device is recorded, with the line that caused it.

Speed, memory and kernels are not those of a GPU. The device is torch's ``privateuseone``, which is meant for backends
that torch does not know. Outside of :func:`pretended_gpu` it is not available, so nothing selects it.
"""

import linecache
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

NAME = "pretended"
ROOT = str(Path(__file__).parents[1] / "rltr")
ONE_ANSWER = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}
UNKNOWN_SHAPE = {
    "aten::nonzero", "aten::masked_select", "aten::bincount", "aten::unique_dim", "aten::_unique2",
}  # fmt: skip
"""Operations whose result has a shape that depends on values, so the host must wait for them."""
ACROSS = {"aten::_to_copy", "aten::copy_", "aten::_copy_from", "aten::lift_fresh"}
"""Operations that may take tensors of two devices."""


class _Module(backend_registration._DummyBackendModule):
    """The module ``torch.pretended``."""

    def is_available(self) -> bool:
        return bool(Pretending.active)

    def device_count(self) -> int:
        return len(Pretending.active)


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
DEVICE = torch.device(NAME, 0)


class Elsewhere(Tensor):
    """A tensor that reports the simulated device.

    Attributes:
        held: its values, on the CPU.
    """

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return Pretending.active[-1].run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Torch's own ``tolist`` refuses subclasses."""
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held!r})"


class Pretending(TorchDispatchMode):
    """Runs every operation on the CPU and gives its results the device that they would have.

    Attributes:
        waits: each time the host would have waited, as the operation and the line of rltr that caused it.
    """

    active: ClassVar[list["Pretending"]] = []

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operation.

        Raises:
            RuntimeError: if its tensors are on two devices.
        """
        name = func._schema.name
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
        # A single number may come from the CPU, as CUDA's operations take it.
        if ours and name not in ACROSS and any(tensor.ndim for tensor in tensors if not isinstance(tensor, Elsewhere)):
            raise RuntimeError(f"{name}: expected all tensors on the same device, but found {DEVICE} and cpu")
        if _waits(func, name, ours, args, kwargs):
            self.waits.append(f"{name.removeprefix('aten::')} {_asked_by()}")
        plain, named = tree_map(_on_cpu, (args, kwargs))
        result = func(*plain, **named)
        if not _there(kwargs.get("device"), name, ours, args):
            return result
        known = {id(tensor.held): tensor for tensor in ours}
        return tree_map_only(Tensor, lambda one: known[id(one)] if id(one) in known else Elsewhere(one), result)

    def __enter__(self) -> "Pretending":
        self.active.append(self)
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        self.active.pop()


def _there(asked: Any, name: str, ours: list[Elsewhere], args: Any) -> bool:
    """Whether an operation's result is on the device."""
    if asked is not None:
        return torch.device(asked).type == NAME
    return isinstance(args[0], Elsewhere) if name == "aten::copy_" else bool(ours)


def _waits(func: Any, name: str, ours: list[Elsewhere], args: Any, kwargs: Any) -> bool:
    """Whether the host waits for the device: for a value, for a shape, or for a copy that blocks."""
    if name == "aten::_to_copy":
        asked = kwargs.get("device")
        moved = asked is not None and (torch.device(asked).type == NAME) != bool(ours)
        return moved and not kwargs.get("non_blocking")
    if not ours:
        return False
    if name == "aten::copy_":
        return isinstance(args[0], Elsewhere) != isinstance(args[1], Elsewhere)
    if name in ("aten::index", "aten::index_put", "aten::index_put_"):
        return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])
    if name == "aten::repeat_interleave":
        return func._overloadname == "Tensor" and kwargs.get("output_size") is None
    return name in ONE_ANSWER or name in UNKNOWN_SHAPE


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Elsewhere):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _asked_by() -> str:
    """The innermost line of rltr on the stack, as ``file:line code``."""
    frame = sys._getframe().f_back
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(ROOT):
            line = linecache.getline(file, frame.f_lineno).strip()
            return f"{Path(file).relative_to(ROOT).as_posix()}:{frame.f_lineno} {line}"
        frame = frame.f_back
    return "elsewhere"


def _no_inference(mode: bool = True) -> AbstractContextManager[None]:
    """Replacement for ``torch.inference_mode``, which does not support tensors that wrap others."""
    return torch.no_grad() if mode else nullcontext()


@contextmanager
def pretended_gpu() -> Iterator[Pretending]:
    """Simulate a GPU, :data:`DEVICE`; yields the record of waits. Tensors made inside work inside only."""
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    lifts = torch._C._only_lift_cpu_tensors()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # parameters cannot change their class
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor creates its tensor on the CPU and then moves it
    try:
        with ExitStack() as stack:
            stack.enter_context(patch.object(torch, "inference_mode", _no_inference))
            for name, result in (("synchronize", None), ("reset_peak_memory_stats", None), ("max_memory_allocated", 1)):
                stack.enter_context(patch.object(torch.accelerator, name, lambda device=None, result=result: result))
            yield stack.enter_context(Pretending())
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
