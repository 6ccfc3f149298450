"""Per-token advantages, by hand: the score shared by a group, and the cost of each token."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltr.train.advantages import RunningDeviation, leave_one_out, token_advantage, token_costs


@given(st.lists(st.lists(st.floats(-4, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=4))
def test_leave_one_out_by_hand(groups: list[list[float]]) -> None:
    expected = [group[i] - sum(group[j] for j in range(3) if j != i) / 2 for group in groups for i in range(3)]
    result = leave_one_out(torch.tensor(groups).flatten(), 3)
    torch.testing.assert_close(result, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.view(-1, 3).sum(1), torch.zeros(len(groups)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("rows", "group"), [(4, 1), (4, 3), (3, 2)])
def test_leave_one_out_needs_whole_groups(rows: int, group: int) -> None:
    with pytest.raises(ValueError, match="group_size"):
        leave_one_out(torch.zeros(rows), group)


@st.composite
def selections(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens are kept ``(decisions, rows, grid)``, the first always, and prices ``(decisions, rows)``."""
    decisions, rows, grid = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    kept = generator.random((decisions, rows, grid)) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    kept[:, :, 0] = True
    return kept, generator.random((decisions, rows)).astype(np.float32)


@given(selections())
def test_a_token_pays_for_itself_until_it_leaves(case: tuple[np.ndarray, np.ndarray]) -> None:
    wanted, prices = case
    decisions, rows, grid = wanted.shape
    alive = np.concatenate([np.ones((1, rows, grid), bool), np.logical_and.accumulate(wanted)])
    brute = np.zeros((decisions, rows, grid), np.float32)
    for start in range(decisions):
        for row in range(rows):
            for token in range(grid):
                for decision in range(start, decisions):
                    if not (alive[decision, row, token] and wanted[decision, row, token]):
                        break
                    brute[start, row, token] += prices[decision, row]
    seen = [torch.from_numpy(alive[decision]) for decision in range(decisions)]
    index = [stage.flatten().nonzero()[:, 0] for stage in seen]
    kept = [torch.from_numpy(wanted[decision])[seen[decision]] for decision in range(decisions)]
    paid = [torch.from_numpy(prices[decision])[stage.nonzero()[:, 0]] for decision, stage in enumerate(seen)]
    for decision, cost in enumerate(token_costs(index, kept, paid)):
        torch.testing.assert_close(cost, torch.from_numpy(brute[decision])[seen[decision]])


@given(total=st.integers(1, 6), rows=st.integers(1, 6), seed=st.integers(0, 99))
def test_token_advantages_by_hand(total: int, rows: int, seed: int) -> None:
    """Also where there are as many rows as tokens, in which case broadcasting would go unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(0, rows, (total,), generator=generator)
    shared, weight = torch.randn(rows, generator=generator), torch.rand(rows, generator=generator)
    cost, baseline = torch.rand(total, generator=generator), torch.rand(total, generator=generator)
    expected = [shared[row[i]] - weight[row[i]] * (cost[i] - baseline[i]) for i in range(total)]
    torch.testing.assert_close(token_advantage(shared, weight, row, cost, baseline), torch.stack(expected))


def test_one_deviation_serves_batches_with_and_without_a_changed_answer() -> None:
    deviation, batches = (
        RunningDeviation(decay=0.5),
        [torch.tensor([0.0, 2.0]), torch.zeros(4), torch.tensor([1.0, 2.0])],
    )
    found = [deviation.update(batch) for batch in batches]
    # Variances 2, 0 and 0.5; the newest has weight 1, the one before 1/2, and so on.
    expected = [2.0, (0 + 2.0 / 2) / 1.5, (0.5 + 0 / 2 + 2.0 / 4) / 1.75]
    assert found == pytest.approx([variance**0.5 for variance in expected])
    assert RunningDeviation().update(torch.zeros(8)) == 0
