"""Which device a run uses, and inputs on it."""

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
    """The device called ``name``; ``auto`` is the first accelerator, or else the processor.

    Args:
        name: ``auto``, ``cpu``, or an accelerator with or without its number: ``cuda``, ``cuda:1``, ``mps`` …

    Raises:
        RltrError: if it is not a device's name, or the device is not there; the message lists those that are.
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
        raise RltrError(f"device {name!r} is not there, or this build of torch cannot use it; {valid}")
    return device


def move_inputs(inputs: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Model inputs where the model is; floating ones in its precision, since layers refuse any but their weights'.

    Args:
        inputs: by name.
        device: the model's.
        dtype: the model's. Whole numbers (tokens, masks) stay what they are.
    """
    return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}


def on_device(numbers: Sequence[int], device: torch.device) -> Int[Tensor, " numbers"]:
    """A few numbers of the host on a device, without waiting for a GPU to finish what it was asked to do before."""
    pinned = device.type == "cuda"  # elsewhere a copy that goes on behind the host may read memory that was freed
    return torch.tensor(numbers, dtype=torch.long, device="cpu", pin_memory=pinned).to(device, non_blocking=pinned)
