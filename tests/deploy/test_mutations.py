"""Damaged policy folders are refused in one line or decide like the sound one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import mutations

MEGABYTES = 200


@pytest.mark.skipif(not hasattr(mutations.signal, "alarm"), reason="Windows has no alarm, and no such files")
@pytest.mark.parametrize(("count", "seed"), [(200, 1), (2000, 0)])
def test_a_damaged_folder_is_refused_or_decides_as_the_sound_one(count: int, seed: int) -> None:
    """In its own process: types are not checked there, and its memory is not used by other tests."""
    command = [sys.executable, "-m", mutations.__name__, "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    damaged, resealed = found["ended"]["as it is"], found["ended"]["resealed"]
    assert damaged.keys() <= {"refused", "sound"}, (found["examples"], done.stderr[-4000:])
    # With matching digests it is another policy: it may decide differently, but must not ruin the model or crash.
    assert resealed.keys() <= {"refused", "sound", "other"}, (found["examples"], done.stderr[-4000:])
    assert damaged["refused"] > 0.4 * count and damaged["sound"] > 0.01 * count and resealed["refused"] > 0.15 * count
    assert found["grown"] <= MEGABYTES


def test_the_changes_are_many_and_change_something(tmp_path: Path) -> None:
    """Otherwise the test above shows nothing."""
    assert sum(map(len, mutations.CHANGES.values())) >= 60
