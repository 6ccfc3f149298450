"""Fair timing: the order of points, what each is compared with, and the number of threads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltr.system.timing import native_beside, pass_order, torch_threads


@given(points=st.integers(1, 20), batch=st.integers(0, 50), every=st.integers(1, 7))
def test_schedule_runs_every_point_once_between_native_passes(points: int, batch: int, every: int) -> None:
    order = pass_order(points, batch, every)
    assert sorted(point for point in order if point is not None) == list(range(points))
    assert order[0] is None and order[-1] is None
    natives = [place for place, point in enumerate(order) if point is None]
    assert all(1 < after - before <= every + 1 for before, after in zip(natives, natives[1:], strict=False))


def test_each_point_takes_each_place_in_turn() -> None:
    first = [pass_order(5, batch, 2)[1] for batch in range(5)]
    assert sorted(point for point in first if point is not None) == list(range(5))


def test_a_point_is_compared_with_the_native_passes_around_it() -> None:
    assert native_beside([None, 1, 0, None, 2, None], [1.0, 9.0, 9.0, 3.0, 9.0, 5.0]) == {1: 2.0, 0: 2.0, 2: 4.0}


def test_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1) as used:
        assert used == torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
