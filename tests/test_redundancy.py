"""Redundancy by hand-made examples, and compared with an independent loop over pairs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rltr.runtime import merging
from rltr.runtime import tokens as ragged
from rltr.runtime.redundancy import STEP, Redundancy, fast_amax, redundancy

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def batch(*counts, leading=1):
    """A ragged batch, and a mask of its protected tokens."""
    tokens = ragged.pack(torch.arange(max(counts)) < torch.tensor(counts)[:, None])
    return tokens, tokens.slot < leading


def directions(*degrees):
    """Unit vectors in the plane by their angle, in degrees."""
    angle = torch.tensor(degrees, dtype=torch.float32).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], -1)


def partners(found, kept):
    """Partners of the dropped tokens, in packed order, and whether each has one."""
    leave, into, there = found.partners(kept)
    there = torch.ones_like(leave, dtype=torch.bool) if there is None else there
    order = leave.argsort()
    assert torch.equal(leave[order], ragged.where(~kept))
    return into[order], there[order]


def cosine(*degrees):
    return torch.tensor(degrees, dtype=torch.float32).deg2rad().cos()


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=1e-6, rtol=0)


def test_one_row_by_hand():
    # place:             0   1   2   3    4  (0 is protected)
    normalized = directions(0, 0, 10, 90, 180)
    tokens, protected = batch(5)
    found = redundancy(normalized, tokens, protected)
    assert found.in_set_a.tolist() == [0, 0, 1, 0, 1]
    # Place 2 is 10 degrees from place 1; place 4 is 90 degrees from place 3. CLS, equal to place 1, is ignored.
    close(found.cosine, [-1, *cosine(10), *cosine(10), *cosine(80), *cosine(90)])
    # Of the even ones place 2 has the nearer duplicate.
    close(found.rank, [0, 0, 1, 0, 0])


def test_ranks_are_even_steps_from_0_to_1():
    # Even places 2, 4, 6, 8, 10 at rising angles from the odd ones, which all point the same way.
    normalized = directions(0, 0, 50, 0, 20, 0, 40, 0, 10, 0, 30)
    tokens, protected = batch(11)
    found = redundancy(normalized, tokens, protected)
    close(found.rank[[8, 4, 10, 6, 2]], [1, 0.75, 0.5, 0.25, 0])
    assert (found.rank[found.in_set_a == 0] == 0).all()


def test_sets_follow_the_current_order():
    tokens, _ = batch(6)
    fewer = ragged.keep(tokens, torch.tensor([True, False, True, True, True, True]))
    found = redundancy(directions(0, 0, 0, 0, 0), fewer, fewer.slot < 1)
    # Original places 2 and 4 were even; with place 1 gone they are the first and third of the free ones.
    assert fewer.position[found.in_set_a == 1].tolist() == [3, 5]


def test_rows_never_mix_and_short_rows_have_no_duplicates():
    tokens, protected = batch(4, 1, 2, 3)
    normalized = directions(0, 0, 30, 0, 0, 0, 0, 0, 0, 60)
    found = redundancy(normalized, tokens, protected)
    close(found.cosine[tokens.row == 0], [-1, *cosine(30, 30, 30)])
    close(found.cosine[tokens.row == 1], [-1])
    close(found.cosine[tokens.row == 2], [-1, -1])
    close(found.cosine[tokens.row == 3], [-1, *cosine(60, 60)])
    # The only even token of its row is not called redundant, however near its duplicate.
    assert found.rank.tolist() == [0] * 10


@pytest.mark.parametrize(("counts", "leading"), [((1,), 1), ((1, 1), 1), ((2, 1), 1), ((2, 2), 2), ((3, 2), 2)])
def test_batches_without_any_pair(counts, leading):
    tokens, protected = batch(*counts, leading=leading)
    found = redundancy(directions(*[0] * tokens.total), tokens, protected)
    assert (found.cosine == -1).all() and (found.rank == 0).all()
    into, there = partners(found, protected)
    assert len(into) == len(there) == int((~protected).sum()) and not there.any()


def test_partners_by_hand():
    normalized = directions(0, 0, 10, 90, 80, 20)
    tokens, protected = batch(6)
    found = redundancy(normalized, tokens, protected)
    # Dropped: 2 (even; nearest odd is 1, which leaves; 5 is next) and 1 (odd; 4 stays, 2 leaves).
    kept = torch.tensor([True, False, False, True, True, True])
    into, there = partners(found, kept)
    assert into.tolist() == [4, 5] and there.all()
    # Without a kept token in the other set it is one of its own: 2 (even) goes to 4.
    into, there = partners(found, torch.tensor([True, False, False, False, True, False]))
    assert into.tolist() == [4, 4, 4, 4] and there.all()
    # Nothing is merged into CLS.
    into, there = partners(found, protected)
    assert not there.any()


@pytest.mark.parametrize("pairs", [merging.PAIRS, 3])
@given(COUNTS, st.integers(0, 2), st.booleans(), st.integers(0, 1000))
def test_everything_equals_a_loop_over_pairs(pairs, counts, leading, causal, seed):
    """``pairs``: how many similarities are computed at a time."""
    tokens, protected = batch(*counts, leading=leading)
    generator = torch.Generator().manual_seed(seed)
    normalized = merging.unit_length(torch.randn(tokens.total, 6, generator=generator))
    kept = (torch.rand(tokens.total, generator=generator) < 0.5) | protected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "PAIRS", pairs)
        patch.setattr(Redundancy, "held", pairs > 3)
        found = redundancy(normalized, tokens, protected, causal)
        into, there = partners(found, kept)
        features = found.features
    assert ("similarity" in vars(found)) == (pairs > 3)
    assert torch.equal(torch.stack([found.cosine, found.in_set_a, found.rank], 1), features)
    dropped = (~kept).nonzero()[:, 0].tolist()
    for i in range(tokens.total):
        others = [
            j
            for j in range(tokens.total)
            if tokens.row[i] == tokens.row[j]
            and not protected[i]
            and not protected[j]
            and (tokens.slot[i] - tokens.slot[j]) % 2 == 1
        ]
        similarity = {j: float(normalized[i] @ normalized[j]) for j in others}
        assert found.cosine[i].item() == pytest.approx(max(similarity.values(), default=-1.0), abs=1e-5)
        if i in dropped:
            mates = [j for j in range(tokens.total) if tokens.row[i] == tokens.row[j] and kept[j] and not protected[j]]
            behind = [j for j in mates if j > i or not causal]
            staying = [j for j in others if j in behind] or behind
            similarity = {j: float(normalized[i] @ normalized[j]) for j in staying}
            assert bool(there[dropped.index(i)]) == bool(staying)
            if staying:
                partner = int(into[dropped.index(i)])
                assert partner in staying
                assert similarity[partner] == pytest.approx(max(similarity[j] for j in staying), abs=1e-5)
    for row in range(len(counts)):
        evens = ((found.in_set_a == 1) & (tokens.row == row)).nonzero()[:, 0].tolist()
        order = sorted(evens, key=lambda i: found.cosine[i].item())
        for place, i in enumerate(order):
            assert found.rank[i].item() == pytest.approx(place / max(len(evens) - 1, 1), abs=1e-6) or (
                # Two evens may share a nearest value only through a rounding tie.
                found.cosine[evens].unique().numel() < len(evens)
            )


@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 5, STEP - 1, STEP, STEP + 1, 3 * STEP + 7]))
def test_fast_amax_equals_amax(rows, evens, odds):
    values = torch.randn(rows, evens, odds)
    values[0, 0, -1] = torch.nan
    for part, dim in ((values, 1), (values, 2), (values, -1), (values[0], 0), (values[0], 1)):
        torch.testing.assert_close(fast_amax(part, dim), part.amax(dim), equal_nan=True, rtol=0, atol=0)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returned."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [part for part in tree_leaves(result) if isinstance(part, torch.Tensor)]
        self.numbers = max([self.numbers, *(part.numel() for part in tensors)])
        return result


@pytest.mark.parametrize("causal", [False, True])
def test_long_rows_never_hold_all_their_pairs(causal):
    """Features, partners of the other and the own set, and merging: 16 million pairs, a quarter of them at a time."""
    tokens, protected = batch(8000)
    hidden = torch.randn(8000, 4, generator=torch.Generator().manual_seed(0))
    half = torch.rand(8000, generator=torch.Generator().manual_seed(1)) < 0.5
    with LargestTensor() as largest:
        found = redundancy(merging.unit_length(hidden), tokens, protected, causal)
        assert len(found.features) == 8000
        for kept in (half | protected, (tokens.slot % 2 == 0) | protected):
            leave, into, _ = found.partners(kept)
            place = (kept.cumsum(0) - 1)[into]
            merged, fewer = merging.merge(hidden, tokens, ragged.where(kept), leave, place)
            assert len(merged) == fewer.total == int(kept.sum())
        found.partners((tokens.slot > 7000) & (tokens.slot % 2 == 0) | protected)
    assert largest.numbers <= merging.PAIRS


def test_long_rows_are_compared_in_parts():
    """A row has more pairs than numbers in its hidden states: memory does not grow with the pairs."""
    tokens, protected = batch(9000)
    assert not redundancy(torch.zeros(9000, 8), tokens, protected).held
    tokens, protected = batch(*[300] * 8)
    assert redundancy(torch.zeros(2400, 8), tokens, protected).held
