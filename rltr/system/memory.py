"""How the process's allocator deals with freed memory, which decides how steady measured times are."""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Settings of glibc's malloc.h: from how many bytes on free memory is given back, and a block is mapped for itself."""
MOST = 2**31 - 1
"""The largest value that mallopt takes, in bytes."""
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
"""What users set the same with."""


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for its next tensors, as allocators of servers do; for good.

    glibc gives large blocks back to the system when they are freed. Every forward pass then has tens of thousands of
    page faults: a sixth of the time of a small ViT on a CPU, and not equally many in every process, so that times of
    the same work disagree. What the user has set by environment variable stays.

    Returns:
        Whether that was set: only glibc can do it, and only there it is needed.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(setting, MOST) == 1 for setting in (TRIM_THRESHOLD, MMAP_THRESHOLD))
