"""Where a time was measured: times hold for one device, data type and thread count, and for no other."""

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from rltr.errors import RltrError


@dataclass(frozen=True)
class Machine:
    """Where a time was measured: device, precision and threads, for which alone it holds."""

    device: str
    """``"cpu"``, ``"cuda"``, …"""
    processor: str
    """The device's name as its maker spells it."""
    driver: str | None
    """The GPU driver's version; None where there is no NVIDIA GPU in use or it does not tell."""
    torch_version: str
    """``torch.__version__``."""
    dtype: str
    """Of the weights, such as ``"float32"``."""
    threads: int
    """Threads within one operator (``torch.get_num_threads``)."""

    @classmethod
    def here(cls, device: torch.device, dtype: torch.dtype, threads: int | None = None) -> "Machine":
        """Describe this machine; ``threads`` defaults to what torch uses now."""
        return cls(
            device=device.type,
            processor=processor_name(device),
            driver=_nvidia_driver(device),
            torch_version=torch.__version__,
            dtype=str(dtype).removeprefix("torch."),
            threads=torch.get_num_threads() if threads is None else threads,
        )

    def require(self, here: "Machine") -> None:
        """Refuse to use a measurement of this machine on machine ``here``.

        Another torch or driver version is let pass: it is stored to be read, and moves times far less than the rest.
        Threads count only on a CPU.

        Raises:
            RltrError: if device, data type or thread count differ.
        """
        fields = ["device", "processor", "dtype"] + (["threads"] if self.device == "cpu" else [])
        wrong = [name for name in fields if getattr(self, name) != getattr(here, name)]
        if not wrong:
            return
        found = "; ".join(f"{name} {getattr(self, name)!r} there, {getattr(here, name)!r} here" for name in wrong)
        fix = "Measure again here with LatencyCost.measure(…)"
        if wrong == ["threads"]:
            fix += f", or call torch.set_num_threads({self.threads}) first"
        raise RltrError(f"this latency table was measured under other conditions: {found}. {fix}")


def processor_name(device: torch.device) -> str:
    """The name of the device's processor, as exactly as the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _nvidia_driver(device: torch.device) -> str | None:
    # torch has no public call for the driver's version; nvidia-smi comes with every driver.
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout else None
