"""Configure glibc's allocator to keep freed memory, which makes measured times more stable."""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt: the sizes in bytes above which free memory is returned, and blocks are mapped."""
MOST = 2**31 - 1
"""The largest value that mallopt takes, in bytes."""
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
"""Environment variables for the same parameters."""


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for its next tensors; this cannot be undone.

    By default, glibc returns large freed blocks to the system. Every forward pass then has tens of thousands of page
    faults, which take a sixth of the time of a small ViT on a CPU. Their number differs between processes, so that
    times of the same work differ. Environment variables set by the user have precedence.

    Returns:
        Whether the parameters were set; only glibc has them, and only glibc needs them.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(setting, MOST) == 1 for setting in (TRIM_THRESHOLD, MMAP_THRESHOLD))
