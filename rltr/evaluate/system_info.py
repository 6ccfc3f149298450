"""Description of machine and software, without which a latency has no meaning."""

import datetime
import platform
from importlib.metadata import version

import torch

from rltr.runtime.backbone import Backbone
from rltr.system.machine import Machine
from rltr.version import __version__


def system_info(backbone: Backbone, threads: int) -> dict[str, str]:
    """Versions, device, dtype, threads and date, as strings for the report."""
    machine = Machine.here(backbone.device, backbone.dtype, threads)
    described = {
        "rltr": __version__,
        "torch": machine.torch_version,
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": machine.device,
        "processor": machine.processor,
        "driver": machine.driver or "",
        "threads": str(machine.threads),
        "dtype": machine.dtype,
        "vector instructions": torch.backends.cpu.get_cpu_capability() if machine.device == "cpu" else "",
        "attention": str(getattr(backbone.config, "_attn_implementation", None) or ""),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return {name: value for name, value in described.items() if value}
