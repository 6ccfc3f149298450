"""Token features of a policy, compared with a loop over tokens."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rltr.policies import Observation
from rltr.policies.observation import GOLDEN_RATIO
from rltr.runtime import tokens as ragged
from rltr.runtime.attended import Attended
from rltr.runtime.decision import Decision

SCALING = 0.5


def decide_on(counts: list[int], leading: int, seed: int, sized: bool) -> tuple[Decision, Tensor, Tensor]:
    """A decision about random hidden states before layer 3, and the queries and keys ``(total, heads, width)``."""
    tokens = ragged.pack(torch.arange(max(counts)) < torch.tensor(counts)[:, None])
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens.total, 6, generator=generator)
    query, key = 2 * torch.randn(2, tokens.total, 2, 4, generator=generator)
    if sized:
        tokens = replace(tokens, size=torch.randint(1, 5, (tokens.total,), generator=generator).float())
    shape = (len(counts), -1) if tokens.uniform is not None else (1, tokens.total)
    attended = Attended(*(part.unflatten(0, shape).transpose(1, 2) for part in (query, key)), SCALING, tokens)
    return Decision(0, 3, hidden, tokens, tokens.slot < leading, tokens.count, attended), query, key


def log_ratio(query: Tensor, key: Tensor, size: Tensor, droppable: list[int]) -> list[float]:
    """Log of the attention from CLS to each token relative to the mean over droppable tokens, divided by 4."""
    logits = SCALING * torch.einsum("hw,thw->ht", query[0], key) + size.log()
    share = logits.softmax(1).mean(0)
    return (0.25 * (share / share[droppable].mean()).log()).clamp(-1, 1).tolist()


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    leading=st.integers(1, 2),
    seed=st.integers(0, 999),
    sized=st.booleans(),
)
def test_features_are_those_of_a_loop_over_tokens(counts: list[int], leading: int, seed: int, sized: bool) -> None:
    decision, query, key = decide_on(counts, leading, seed, sized)
    ones = torch.ones(len(counts))
    found = Observation.of_decision(decision, ones, ones).token_features
    centred = decision.hidden - decision.hidden.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True)
    sizes = torch.ones(len(unit)) if decision.tokens.size is None else decision.tokens.size
    start = 0
    for count in counts:
        places = range(start, start + count)
        droppable = list(range(leading, count))
        cosine = {
            i: max((float(unit[start + i] @ unit[start + j]) for j in droppable if (i + j) % 2), default=-1.0)
            for i in droppable
        }
        set_a = sorted((i for i in droppable if i % 2 == 0), key=cosine.__getitem__)
        attention = log_ratio(query[places], key[places], sizes[places], droppable)
        for i in droppable:
            rank = set_a.index(i) / max(1, len(set_a) - 1) if i in set_a else 0.0
            expected = [cosine[i], float(i in set_a), rank, attention[i], i * GOLDEN_RATIO % 1]
            assert found[start + i].tolist() == pytest.approx(expected, abs=1e-4)
        start += count


def test_before_the_first_layer_the_attention_feature_is_0() -> None:
    decision, _, _ = decide_on([7, 4], 1, 0, False)
    ones = torch.ones(2)
    found = Observation.of_decision(replace(decision, attended=None), ones, ones).token_features
    assert not found[:, 3].any() and found[:, 2].any()
