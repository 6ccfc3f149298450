"""The plan of attention on a CPU: masks that are made once, and groups of rows of similar length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltr.runtime import kernels
from rltr.runtime import tokens as ragged
from rltr.runtime.kernels import Plan
from rltr.runtime.kernels.groups import groups_of_similar_length
from rltr.runtime.pattern import Pattern
from tests.attention.conftest import HEADS, WIDTH, batch


def test_masks_are_made_once_for_all_layers_between_two_decisions():
    tokens, qkv = batch((5, 2, 3), True, 0)
    asked = []

    def allowed(row, head, query, key):
        asked.append(1)
        return key <= query

    plan = Plan(tokens)
    first = kernels.ragged_attention(*qkv, plan, 0.3, Pattern(allowed))
    once = len(asked)
    second = kernels.ragged_attention(*qkv, plan, 0.3, Pattern(allowed))
    assert once and len(asked) == once
    assert torch.equal(first, second)


def uneven(total, rows, seed):
    """Counts of rows that add up to about ``total``, from short to long."""
    share = torch.rand(rows, generator=torch.Generator().manual_seed(seed)) + 0.1
    return (share / share.sum() * total).round().clamp_min(1).int().tolist()


@pytest.mark.parametrize(("rows", "calls"), [(4, 4), (64, range(2, 32))])
def test_many_small_rows_share_calls_and_few_rows_get_one_each(rows, calls):
    tokens, _ = batch(uneven(30 * rows, rows, 0), False, 0)
    groups = Plan(tokens).groups("auto", 96)
    assert len(groups.shapes) in (calls if isinstance(calls, range) else [calls])
    assert (groups.gather is None) == (rows == 4)
    assert len(Plan(tokens).groups("auto", 2000).shapes) == rows, "large rows are worth a call each"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), st.floats(0, 60), st.integers(0, 1000))
def test_groups_hold_every_token_once_and_pad_with_tokens_of_the_same_row(counts, slack, seed):
    tokens = ragged.pack(torch.arange(max(counts)) < torch.tensor(counts)[:, None])
    values = torch.randn(1, HEADS, tokens.total, WIDTH, generator=torch.Generator().manual_seed(seed))
    groups = groups_of_similar_length(tokens, slack)
    assert torch.equal(groups.collect(groups.arrange(values)), values.transpose(1, 2))
    assert groups.gather is not None and groups.place is not None
    assert torch.equal(groups.gather[groups.place], torch.arange(tokens.total))
    assert sum(rows for rows, _ in groups.shapes) == sum(count > 0 for count in counts)
    for (_, length), row, padded in zip(groups.shapes, groups.pad_with_first(tokens.row), groups.padded, strict=True):
        assert (row == row[:, :1]).all()
        own = [counts[r] for r in row[:, 0].tolist()]
        assert max(own) == length and padded == (min(own) < length)
        assert all(length**2 - count**2 <= slack for count in own)
    marked = torch.cat([part.flatten() for part in groups.pad_with(tokens.position.float(), -1.0)])
    assert torch.equal(marked[groups.place], tokens.position.float()) and (marked >= 0).sum() == tokens.total
