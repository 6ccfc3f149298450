"""Choose the device of a run, and move inputs to it."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from rltr.errors import RltrError


def available_devices() -> list[str]:
    """Names of the devices that work here, such as ``["cpu", "cuda:0", "cuda:1"]``."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    return ["cpu", *(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count()))]


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` is the first accelerator, or the CPU if there is none.

    Args:
        name: ``auto``, ``cpu``, or an accelerator with or without its index: ``cuda``, ``cuda:1``, ``mps`` …

    Raises:
        RltrError: if it is not the name of a device, or the device is not available; the message lists those that are.
    """
    here = available_devices()
    valid = f"valid here: auto, {', '.join(here)}"
    if name == "auto":
        return torch.device(here[1] if len(here) > 1 else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RltrError(f"device {name!r} is not a device's name; {valid}") from None
    full = device.type if device.type == "cpu" else f"{device.type}:{device.index or 0}"
    if full not in here:
        raise RltrError(f"device {name!r} is not available, or this build of torch cannot use it; {valid}")
    return device


def move_inputs(inputs: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Move model inputs to the model's device, and floating-point inputs to its data type, which layers require.

    Args:
        inputs: model inputs by name.
        device: the model's device.
        dtype: the model's data type. Integer inputs (tokens, masks) keep their own.
    """
    return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}


def on_device(numbers: Sequence[int], device: torch.device) -> Int[Tensor, " numbers"]:
    """Copy a few numbers from the host to a device, without waiting for the GPU's queued work."""
    pinned = device.type == "cuda"  # on other devices, an asynchronous copy may read memory that is already freed
    return torch.tensor(numbers, dtype=torch.long, device="cpu", pin_memory=pinned).to(device, non_blocking=pinned)
