"""Per-example qualities: packing as text, and bootstrap resamples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltr.errors import RltrError
from rltr.evaluate.resampling import pack, resampled_qualities, unpack

answers = st.lists(st.booleans(), min_size=1, max_size=70)


@given(answers)
def test_answers_survive_packing(right: list[bool]) -> None:
    assert unpack(pack(right), len(right)).tolist() == right
    with pytest.raises(RltrError, match="damaged"):
        unpack(pack(right), len(right) + 8)
    with pytest.raises(RltrError, match="damaged"):
        unpack("no base64!", len(right))


@given(st.lists(st.floats(-5, 1, width=32), min_size=1, max_size=70))
def test_qualities_survive_packing(qualities: list[float]) -> None:
    assert unpack(pack(qualities), len(qualities)).tolist() == qualities
    with pytest.raises(RltrError, match="damaged"):
        unpack(pack([0.5] * 9), 10)


def test_all_points_are_drawn_the_same_examples() -> None:
    right = np.random.default_rng(0).random((3, 500)) < 0.8
    right[1] = ~right[0]
    drawn = resampled_qualities(right, resamples=4000)
    assert drawn[:, 0] + drawn[:, 1] == pytest.approx(np.ones(4000))
    assert drawn.mean(0) == pytest.approx(right.mean(1), abs=0.002)
    accuracy = right[2].mean()
    assert drawn[:, 2].std() == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / 500), rel=0.05)
    assert (resampled_qualities(right, resamples=10) == resampled_qualities(right, resamples=10)).all()
