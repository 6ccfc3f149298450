"""The ragged batch: every function equals its definition for rows of any length."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltr.runtime import merging
from rltr.runtime import tokens as ragged

SEEDS = st.integers(0, 2**32 - 1)


ROWS = st.integers(1, 7).flatmap(
    lambda grid: st.lists(st.lists(st.booleans(), min_size=grid, max_size=grid), min_size=1, max_size=4)
)
BATCHES = st.tuples(ROWS, st.none() | SEEDS)
"""Arguments of :func:`made`: which tokens are present, and a seed for sizes or None."""


def made(batch):
    """A ragged batch of 1 to 4 rows of 0 to 7 tokens, with or without sizes."""
    rows, seed = batch
    tokens = ragged.pack(torch.tensor(rows))
    if seed is None:
        return tokens
    size = torch.randint(1, 6, (tokens.total,), generator=torch.Generator().manual_seed(seed))
    return replace(tokens, size=size.float())


def rows_of(tokens):
    """Packed indices of each row, by a loop."""
    return [[i for i, row in enumerate(tokens.row.tolist()) if row == r] for r in range(len(tokens.counts))]


def mark(tokens, seed, share=0.5):
    """A random mask over packed tokens."""
    return torch.rand(tokens.total, generator=torch.Generator().manual_seed(seed)) < share


def hidden_states(tokens, seed, width=3):
    return torch.randn(tokens.total, width, generator=torch.Generator().manual_seed(seed))


def test_a_full_batch_has_every_token():
    tokens = ragged.full_batch(2, 3)
    assert tokens.row.tolist() == [0, 0, 0, 1, 1, 1]
    assert tokens.position.tolist() == [0, 1, 2, 0, 1, 2]
    assert (tokens.counts, tokens.grid, tokens.uniform, tokens.size) == ((3, 3), 3, 3, None)


def merge(hidden, tokens, kept, into, found):
    """Merge all tokens that are not kept into ``into`` (in packed order), but those without a partner."""
    place = (kept.cumsum(0) - 1)[into[found]]
    return merging.merge(hidden, tokens, ragged.where(kept), ragged.where(~kept)[found], place)


@given(BATCHES)
def test_the_index_is_consistent(batch):
    tokens = made(batch)
    rows = rows_of(tokens)
    assert tokens.counts == tuple(map(len, rows)) and sum(tokens.counts) == tokens.total
    assert tokens.uniform == (tokens.counts[0] if len(set(tokens.counts)) == 1 else None)
    assert tokens.count.tolist() == list(tokens.counts)
    assert tokens.start.tolist() == [sum(tokens.counts[:r]) for r in range(len(rows))]
    assert tokens.slot.tolist() == [slot for row in rows for slot in range(len(row))]
    for row in rows:
        positions = tokens.position[row].tolist()
        assert positions == sorted(set(positions))


@given(BATCHES)
def test_pack_undoes_present(batch):
    tokens = made(batch)
    again = ragged.pack(tokens.present)
    assert torch.equal(again.row, tokens.row) and torch.equal(again.position, tokens.position)
    assert (again.counts, again.grid) == (tokens.counts, tokens.grid)


@given(BATCHES, SEEDS)
def test_unpad_undoes_pad_and_padding_has_the_given_value(batch, seed):
    tokens = made(batch)
    values = hidden_states(tokens, seed)
    padded = ragged.pad(values, tokens, 7.0)
    assert padded.shape == (len(tokens.counts), max(tokens.counts), 3)
    assert torch.equal(ragged.unpad(padded, tokens), values)
    for row, index in enumerate(rows_of(tokens)):
        assert torch.equal(padded[row, : len(index)], values[index])
        assert (padded[row, len(index) :] == 7).all()


@given(BATCHES, SEEDS, st.integers(0, 3))
def test_padding_repeats_tokens_of_the_same_row(batch, seed, more):
    tokens = made(batch)
    values = hidden_states(tokens, seed)
    if not tokens.total:
        return
    laid = ragged.pad_with_own_tokens(values, tokens, max(tokens.counts) + more)
    assert laid.shape == (len(tokens.counts), max(tokens.counts) + more, 3)
    assert torch.equal(ragged.unpad(laid, tokens), values)
    for row, index in enumerate(rows_of(tokens)):
        if index:
            assert all(any(torch.equal(place, values[i]) for i in index) for place in laid[row])


@given(BATCHES, SEEDS)
def test_scatter_to_grid_puts_values_at_their_original_positions(batch, seed):
    tokens = made(batch)
    values = hidden_states(tokens, seed)
    grid = ragged.scatter_to_grid(tokens, values)
    assert torch.equal(grid[tokens.present], values)
    assert (grid[~tokens.present] == 0).all()


@given(BATCHES, SEEDS)
def test_keep_keeps_the_marked_tokens_in_order(batch, seed):
    tokens = made(batch)
    kept = mark(tokens, seed)
    fewer = ragged.keep(tokens, kept)
    assert torch.equal(fewer.row, tokens.row[kept]) and torch.equal(fewer.position, tokens.position[kept])
    assert fewer.counts == tuple(int(kept[row].sum()) for row in rows_of(tokens))
    assert fewer.grid == tokens.grid
    assert torch.equal(fewer.size, tokens.size[kept]) if tokens.size is not None else fewer.size is None


@given(BATCHES, SEEDS)
def test_where_and_take_equal_masking(batch, seed):
    tokens = made(batch)
    kept, values = mark(tokens, seed), hidden_states(tokens, seed)
    assert ragged.where(kept).tolist() == [i for i, stays in enumerate(kept.tolist()) if stays]
    assert torch.equal(ragged.take(values, kept), values[kept])


@given(BATCHES, st.data())
def test_rank_is_the_index_in_a_stable_sort(batch, data):
    tokens = made(batch)
    # Few distinct scores, so that ties are common; -inf must still come before the padding.
    scores = st.sampled_from([-torch.inf, -1.0, 0.0, 2.0, torch.inf])
    score = torch.tensor(data.draw(st.lists(scores, min_size=tokens.total, max_size=tokens.total)))
    rank = ragged.rank(score, tokens)
    for row in rows_of(tokens):
        order = sorted(row, key=lambda i: -score[i].item())
        assert [rank[i].item() for i in order] == list(range(len(row)))


@given(BATCHES, SEEDS)
def test_row_sum_adds_up_each_row(batch, seed):
    tokens = made(batch)
    values = hidden_states(tokens, seed)
    expected = torch.stack([values[row].sum(0) for row in rows_of(tokens)])
    torch.testing.assert_close(ragged.row_sum(values, tokens), expected)


@pytest.mark.parametrize("pairs", [merging.PAIRS, 3])
@given(BATCHES, SEEDS, st.booleans())
def test_nearest_equals_brute_force(pairs, batch, seed, later):
    """``pairs``: how many pairs are compared at a time."""
    tokens = made(batch)
    unit = merging.unit_length(hidden_states(tokens, seed, width=4))
    source, other = mark(tokens, seed), mark(tokens, seed + 1)
    target = other & ~source
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "PAIRS", pairs)
        cosine, partner = merging.nearest(unit, tokens, source, target, later)
    for i, found, index in zip(source.nonzero()[:, 0].tolist(), cosine.tolist(), partner.tolist(), strict=True):
        candidates = [
            j for j in range(tokens.total) if target[j] and tokens.row[j] == tokens.row[i] and (j > i or not later)
        ]
        if candidates:
            best = max(candidates, key=lambda j: (unit[i] @ unit[j]).item())
            assert found == pytest.approx((unit[i] @ unit[best]).item(), abs=1e-5)
            assert index in candidates
            assert (unit[i] @ unit[index]).item() == pytest.approx(found, abs=1e-5)
        else:
            assert found == -torch.inf
            assert 0 <= index < tokens.total


@given(BATCHES, SEEDS)
def test_merge_conserves_the_weighted_sum_and_the_number_of_tokens(batch, seed):
    tokens = made(batch)
    first = tokens.slot == 0
    hidden, kept = hidden_states(tokens, seed), mark(tokens, seed) | first
    # As in the runtime, no token is merged into a row's first token: if only that is kept, the others are lost.
    cosine, into = merging.nearest(merging.unit_length(hidden), tokens, ~kept, kept & ~first)
    merged, fewer = merge(hidden, tokens, kept, into, cosine.isfinite())
    size = torch.ones(tokens.total) if tokens.size is None else tokens.size
    remains = first | (ragged.keep(tokens, kept).count > 1)[tokens.row]
    before = ragged.row_sum(hidden * (size * remains)[:, None], tokens)
    assert fewer.size is not None
    torch.testing.assert_close(ragged.row_sum(merged * fewer.size[:, None], fewer), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(ragged.row_sum(fewer.size, fewer), ragged.row_sum(size * remains, tokens))
    plain = ragged.keep(tokens, kept)
    assert torch.equal(fewer.position, plain.position) and fewer.counts == plain.counts


def sizes(tokens):
    assert tokens.size.dtype == torch.float32
    return tokens.size.tolist()


def test_merge_by_hand():
    tokens = ragged.full_batch(1, 4)
    hidden = torch.tensor([[1.0], [2.0], [4.0], [9.0]])
    kept = torch.tensor([True, True, False, False])
    merged, fewer = merge(hidden, tokens, kept, torch.tensor([1, 1]), torch.tensor([True, True]))
    assert merged.tolist() == [[1.0], [5.0]] and sizes(fewer) == [1.0, 3.0]
    merged, fewer = merge(merged, fewer, torch.tensor([True, False]), torch.tensor([0]), torch.tensor([True]))
    assert merged.tolist() == [[4.0]] and sizes(fewer) == [4.0]
    merged, fewer = merge(hidden, tokens, kept, torch.tensor([1, 1]), torch.tensor([False, False]))
    assert merged.tolist() == [[1.0], [2.0]] and sizes(fewer) == [1.0, 1.0]


def test_merge_counts_in_float32_and_returns_the_hidden_states_dtype():
    tokens = ragged.full_batch(1, 300)
    kept = torch.arange(300) == 0
    into = torch.zeros(299, dtype=torch.long)
    merged, fewer = merge(torch.ones(300, 2).bfloat16(), tokens, kept, into, torch.ones(299, dtype=torch.bool))
    # bfloat16 cannot count beyond 256.
    assert sizes(fewer) == [300.0]
    assert merged.dtype == torch.bfloat16 and torch.equal(merged, torch.ones(1, 2).bfloat16())


def test_merge_computes_double_precision_in_double():
    tokens = ragged.full_batch(1, 3)
    hidden = torch.tensor([[0.0], [1.0], [1.0 + 3e-12]], dtype=torch.float64)
    kept, into, found = torch.tensor([True, True, False]), torch.tensor([1]), torch.tensor([True])
    merged, fewer = merge(hidden, tokens, kept, into, found)
    assert merged[1].item() == pytest.approx(1 + 1.5e-12, abs=1e-15)
    assert fewer.size is not None and fewer.log_size[1].item() == pytest.approx(math.log(2), abs=1e-16)
    unit = merging.unit_length(torch.randn(5, 8, dtype=torch.float64))
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(5, dtype=torch.float64), atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_tokens_that_nothing_is_merged_into_keep_their_states_bit_for_bit(dtype):
    tokens = replace(ragged.full_batch(1, 4), size=torch.tensor([1.0, 3.0, 7.0, 2.0]))
    hidden = torch.randn(4, 16, dtype=dtype)
    merged, fewer = merging.merge(hidden, tokens, torch.tensor([0, 1, 3]), torch.tensor([2]), torch.tensor([1]))
    assert torch.equal(merged[[0, 2]], hidden[[0, 3]]) and sizes(fewer) == [1, 10, 2]
    expected = ((3 * hidden[1].float() + 7 * hidden[2].float()) / 10).to(dtype)
    torch.testing.assert_close(merged[1], expected)
    assert tokens.size is not None and tokens.size.tolist() == [1, 3, 7, 2]


def test_places_count_from_the_first_token_of_a_row():
    tokens = ragged.pack(torch.tensor([[0, 0, 1, 1, 0, 1], [1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]).bool())
    assert tokens.place.tolist() == [0, 1, 3, 0, 1, 4, 0]
    # Also after other tokens were removed.
    assert ragged.keep(tokens, torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()).place.tolist() == [0, 3, 0, 4, 0]
    assert ragged.pack(torch.tensor([[1, 0, 1]]).bool()).first is None


def test_unit_length_does_not_depend_on_the_scale():
    hidden = torch.randn(6, 32)
    for scale in (1e-3, 1e3):
        torch.testing.assert_close(
            merging.unit_length(scale * hidden), merging.unit_length(hidden), rtol=1e-4, atol=1e-5
        )
    assert (merging.unit_length(torch.zeros(2, 32)) == 0).all()


def test_dropped_tokens_that_are_not_finite_have_no_effect():
    tokens = ragged.full_batch(2, 3)
    hidden = torch.ones(6, 4)
    hidden[1:3] = torch.nan
    kept = torch.tensor([True, False, False, True, True, False])
    into, found = torch.tensor([3, 4, 4]), torch.tensor([False, False, True])
    merged, _ = merge(hidden, tokens, kept, into, found)
    assert (merged == 1).all()


def test_unit_length_is_centred_and_of_length_one():
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    unit = merging.unit_length(hidden)
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(unit.mean(-1), torch.zeros(5), atol=1e-6, rtol=0)
