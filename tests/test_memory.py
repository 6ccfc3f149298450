"""Freed memory is kept for reuse, where the C library allows it."""

import subprocess
import sys

import pytest

from rltr.system import memory

PROGRAM = """
import resource, sys
from rltr.system.memory import keep_freed_memory
import torch

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    begun = faults()
    for _ in range(40):
        torch.ones(2**20)  # 4 MiB, written to, and freed at once
    return faults() - begun

before = work()
assert keep_freed_memory()
work()  # until holes are there that are large enough
after = work()
print(before, after)
"""


@pytest.mark.skipif(memory.platform.libc_ver()[0] != "glibc", reason="only glibc returns memory to the system so soon")
def test_freed_memory_is_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in memory.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    # Huge pages reduce the number of page faults, but not to 0.
    assert after < before / 10, (before, after)


def test_settings_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("nothing is to be set"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not memory.keep_freed_memory()


def test_other_systems_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("nothing is to be set"))
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed_memory()
