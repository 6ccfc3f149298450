"""A policy with random parameters, and random observations for it."""

import torch
from hypothesis import strategies as st

from rltr.policies import Observation, PolicyConfig, TokenPolicy
from rltr.policies.observation import TOKEN_FEATURES
from rltr.runtime import merging
from rltr.runtime import tokens as ragged
from rltr.runtime.tokens import Tokens

WIDTH, DEPTH, GRID = 12, 6, 10
CONFIG = PolicyConfig(WIDTH, DEPTH, GRID, width=8)
FEW_COUNTS = st.lists(st.integers(1, GRID), min_size=1, max_size=4)


def lively_policy(seed: int = 0) -> TokenPolicy:
    """A policy with random parameters, since a new one has learned logits of 0."""
    torch.manual_seed(seed)
    policy = TokenPolicy(CONFIG)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy.eval()


def observation(counts: list[int], seed: int = 0) -> Observation:
    """Random tokens at random positions, ``counts`` in each row, of which the first is protected."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.zeros(len(counts), GRID, dtype=torch.bool)
    for row, count in enumerate(counts):
        places = torch.randperm(GRID - 1, generator=generator)[: count - 1] + 1
        present[row, 0] = True
        present[row, places] = True
    tokens = ragged.pack(present)
    unit = merging.unit_length(torch.randn(tokens.total, WIDTH, generator=generator))
    protected = tokens.slot == 0
    rows = len(counts)
    return Observation(
        unit,
        torch.rand(tokens.total, TOKEN_FEATURES, generator=generator),
        tokens,
        protected,
        torch.randint(0, DEPTH, (rows,), generator=generator),
        0.001 + torch.rand(rows, generator=generator),
        torch.rand(rows, generator=generator),
    )


def rows_of(seen: Observation, rows: list[int]) -> Observation:
    """Some rows of an observation, as a batch of their own."""
    index = torch.cat([(seen.tokens.row == row).nonzero()[:, 0] for row in rows])
    counts = [seen.tokens.counts[row] for row in rows]
    row = torch.arange(len(rows)).repeat_interleave(torch.tensor(counts))
    tokens = Tokens(row, seen.tokens.position[index], tuple(counts), GRID)
    return Observation(
        seen.hidden[index],
        seen.token_features[index],
        tokens,
        seen.protected[index],
        seen.layer[rows],
        seen.price[rows],
        seen.kept[rows],
    )
