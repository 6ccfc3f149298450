"""Benchmarks time methods of the runtime by name, so the names must be those that the runtime has."""

import pytest

from benchmarks.decision_overhead import PARTS_OF
from benchmarks.packing import INDEX_WORK

TIMED: set[tuple[type, str]] = {(owner, name) for _, owner, name in PARTS_OF} | set(INDEX_WORK)


@pytest.mark.parametrize(("owner", "name"), sorted(TIMED, key=str))
def test_a_timed_method_exists(owner: type, name: str) -> None:
    assert name in vars(owner)
