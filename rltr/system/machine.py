"""Describe the machine of a time measurement, which is valid only for one device, data type and thread count."""

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from rltr.errors import RltrError


@dataclass(frozen=True)
class Machine:
    """The conditions of a time measurement: device, data type, threads and software versions."""

    device: str
    """``"cpu"``, ``"cuda"``, …"""
    processor: str
    """The vendor's name of the processor or GPU."""
    driver: str | None
    """Version of the GPU driver; None if no NVIDIA GPU is used or it is unknown."""
    torch_version: str
    """``torch.__version__``."""
    dtype: str
    """Data type of the weights, such as ``"float32"``."""
    threads: int
    """Number of intra-op threads (``torch.get_num_threads``)."""

    @classmethod
    def here(cls, device: torch.device, dtype: torch.dtype, threads: int | None = None) -> "Machine":
        """Describe this machine; ``threads`` defaults to torch's current setting."""
        return cls(
            device=device.type,
            processor=processor_name(device),
            driver=_nvidia_driver(device),
            torch_version=torch.__version__,
            dtype=str(dtype).removeprefix("torch."),
            threads=torch.get_num_threads() if threads is None else threads,
        )

    def require(self, here: "Machine") -> None:
        """Check that a measurement of this machine is valid on machine ``here``.

        Different versions of torch or the driver are accepted: they affect times far less, and are stored only for
        information. Threads are compared only on a CPU.

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
    """The name of the GPU or CPU, as reported by the system."""
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
    # torch has no public function for the driver's version; nvidia-smi comes with every driver.
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout else None
