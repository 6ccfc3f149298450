"""Selectors keep exactly the share of tokens given by the keep rate, by their rule."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltr.errors import RltrError
from rltr.runtime import tokens as ragged
from rltr.runtime.attended import Attended
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision
from rltr.selectors import (
    BASELINES,
    ClsAttention,
    KeepAll,
    Norm,
    RandomChoice,
    Ranking,
    Selector,
    ToMe,
    Uniform,
    baseline,
)
from rltr.selectors.base import keep_best
from rltr.selectors.reduced_model import ReducedModel

COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=4)
RATES = st.floats(0.01, 1.0) | st.sampled_from([0.1, 0.25, 0.5, 0.7, 0.75, 0.9, 1.0])
SEEDS = st.integers(0, 1000)
SCORED = [name for name in BASELINES if name != "tome"]


def decide_on(counts, leading=1, seed=0, width=6):
    """A decision with random hidden states and all inputs of a selector."""
    tokens = ragged.pack(torch.arange(max(counts)) < torch.tensor(counts)[:, None])
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens.total, width, generator=generator)
    query, key = torch.randn(2, 1, 2, tokens.total, 4, generator=generator)
    if tokens.uniform is not None:
        query, key = (tensor[0].unflatten(1, (-1, tokens.uniform)).transpose(0, 1) for tensor in (query, key))
    attended = Attended(query, key, 0.5, tokens)
    return Decision(0, 1, hidden, tokens, tokens.slot < leading, tokens.count, attended)


def rows_of(tokens):
    return [(tokens.row == row).nonzero()[:, 0].tolist() for row in range(len(tokens.counts))]


def promised(count, leading, rate):
    """Tokens that stay of a row, by the plain formula; integer products are meant exactly."""
    free = max(count - leading, 0)
    return min(leading, count) + math.ceil(round(rate * free, 9))


@pytest.mark.parametrize("name", SCORED)
@given(counts=COUNTS, leading=st.integers(1, 2), rate=RATES, seed=SEEDS)
def test_rankings_keep_exactly_the_share_with_the_highest_scores(name, counts, leading, rate, seed):
    decision = decide_on(counts, leading, seed)
    kept = baseline(name, rate)(decision).keep
    selector = baseline(name, rate)
    assert isinstance(selector, Ranking)
    score = selector.score(decision)
    assert kept[decision.protected].all()
    for row in rows_of(decision.tokens):
        assert int(kept[row].sum()) == promised(len(row), leading, rate)
        free = [i for i in row if not decision.protected[i]]
        stay, leave = [i for i in free if kept[i]], [i for i in free if not kept[i]]
        assert not stay or not leave or min(score[stay]) >= max(score[leave])


def test_a_share_that_is_a_whole_number_is_not_rounded_up():
    for count in (10, 25, 100):  # 0.28 * 25 and 0.55 * 100 are a little more than 7 and 55
        decision = decide_on([count + 1])
        for hundredths in range(1, 101):
            kept = keep_best(torch.rand(count + 1), decision, hundredths / 100)
            assert int(kept.sum()) == 1 + -(-hundredths * count // 100)


def test_keep_best_of_equal_scores_keeps_the_first():
    decision = decide_on([5, 3])
    for score in (torch.zeros(8), torch.full((8,), -torch.inf), torch.full((8,), torch.inf)):
        assert keep_best(score, decision, 0.5).tolist() == [True, True, True, False, False, True, True, False]


@given(COUNTS, st.integers(1, 2), RATES, SEEDS)
def test_tome_merges_the_most_similar_pairs_across_two_sets(counts, leading, rate, seed):
    decision = decide_on(counts, leading, seed)
    tokens = decision.tokens
    choice = ToMe(rate)(decision)
    dropped = (~choice.keep).nonzero()[:, 0].tolist()
    assert choice.keep[decision.protected].all()
    assert choice.into is not None and len(choice.into) == len(dropped)
    into = dict(zip(dropped, choice.into.tolist(), strict=True))
    unit = decision.attended.keys / decision.attended.keys.norm(dim=1, keepdim=True)
    for row in rows_of(tokens):
        free = [i for i in row if not decision.protected[i]]
        evens, odds = ([i for i in free if tokens.slot[i] % 2 == first] for first in (0, 1))
        gone = [i for i in row if i in into]
        # At most all of set A, none if set B is empty, otherwise the number given by the rate.
        leave = len(row) - promised(len(row), leading, rate)
        assert len(gone) == (min(leave, len(evens)) if odds else 0)
        best = {i: max(((unit[i] @ unit[j]).item() for j in odds), default=0.0) for i in evens}
        for i in gone:
            # The partner is kept, unprotected, in the same row and the other set, and the most similar one there.
            assert i in evens and into[i] in odds and choice.keep[into[i]]
            assert (unit[i] @ unit[into[i]]).item() == pytest.approx(best[i], abs=1e-5)
        stay = [best[i] for i in evens if i not in into]
        assert not stay or not gone or min(best[i] for i in gone) >= max(stay) - 1e-6


@given(st.integers(2, 30), RATES)
def test_uniform_keeps_at_equal_strides(count, rate):
    decision = decide_on([count])
    kept = decision.tokens.slot[Uniform(rate)(decision).keep].tolist()
    strides = [after - before for before, after in zip(kept, [*kept[1:], count], strict=True)]
    assert max(strides) <= math.ceil(1 / rate - 1e-9)
    if 1 / rate == round(1 / rate) and (count - 1) % round(1 / rate) == 0:
        # CLS, then one of every 1 / rate tokens.
        assert kept[1:] == list(range(round(1 / rate), count, round(1 / rate)))


def test_uniform_does_not_depend_on_the_input():
    first, second = decide_on([9, 4], seed=0), decide_on([9, 4], seed=1)
    assert torch.equal(Uniform(0.4)(first).keep, Uniform(0.4)(second).keep)


def test_norm_scores_by_length():
    decision = decide_on([4])
    decision.hidden = torch.tensor([[0.0, 0], [3, 4], [1, 0], [0, 2]])
    assert Norm(1.0).score(decision).tolist() == [0, 5, 1, 2]


def test_random_choice_follows_its_seed():
    decision = decide_on([12, 12])

    def three(seed):
        chosen = RandomChoice(0.5, seed)
        return torch.stack([chosen(decision).keep for _ in range(3)])

    assert torch.equal(three(1), three(1))
    assert not torch.equal(three(1), three(2))
    first, second, _ = three(1)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    three(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_redundancy_drops_the_even_duplicate_first():
    decision = decide_on([6])
    # Places 1 and 4 are duplicates: the even one is dropped first, then the other even one, which has no duplicate.
    decision.hidden = torch.tensor([[9.0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0.5], [1, 0, 0.01], [0, -1, 0.2]])
    order = []
    for rate in (0.8, 0.6):
        kept = baseline("redundancy", rate)(decision).keep
        order.append([i for i, stays in enumerate(kept.tolist()) if not stays])
    assert order[0] == [4] and order[1] == [2, 4]


def test_keep_all_keeps_all():
    assert KeepAll()(decide_on([3, 1])).keep.tolist() == [True] * 4


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.01, math.nan])
@pytest.mark.parametrize("name", BASELINES)
def test_keep_rates_out_of_range_are_refused(name, rate):
    with pytest.raises(RltrError, match="above 0 and at most 1"):
        baseline(name, rate)


def test_an_unknown_selector_is_refused_with_the_choices():
    with pytest.raises(RltrError, match="no selector 'magic'.*cls_attention"):
        baseline("magic", 0.5)


# ---- what CLS attended to


class Spy(ClsAttention):
    """Attention scores of CLS, recorded; keeps every token."""

    def __init__(self):
        super().__init__(1.0)
        self.seen = []

    def __call__(self, decision):
        self.seen.append((decision.layer, decision.attended.from_pooled))
        return super().__call__(decision)


def test_cls_attention_is_the_models_own(case):
    """It equals the attention weights that the eager model returns for the previous layer."""
    layers = (1, 2, 3)
    backbone, spy = Backbone(case.model), Spy()
    with backbone.attached(), torch.no_grad():
        ReducedModel(backbone, spy, layers)(case.inputs)
    eager = copy.deepcopy(case.model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = eager(**case.inputs, output_attentions=True).attentions
    assert [layer for layer, _ in spy.seen] == list(layers)
    for layer, weights in spy.seen:
        expected = attentions[layer - 1][:, :, 0].mean(1)
        torch.testing.assert_close(weights, expected[case.present], atol=1e-5, rtol=1e-5)


@given(COUNTS, st.booleans(), SEEDS)
def test_first_token_attention_counts_sizes(counts, sized, seed):
    tokens = ragged.pack(torch.arange(max(counts)) < torch.tensor(counts)[:, None])
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, tokens.total, 2, 4, generator=generator)
    size = torch.randint(1, 6, (tokens.total,), generator=generator).float()
    if sized:
        tokens = ragged.Tokens(tokens.row, tokens.position, tokens.counts, tokens.grid, size)
    shape = (len(counts), tokens.uniform, 2, 4) if tokens.uniform is not None else (1, tokens.total, 2, 4)
    weights = Attended(*(tensor.view(shape).transpose(1, 2) for tensor in (query, key)), 0.4, tokens).from_pooled
    for row in rows_of(tokens):
        logits = torch.einsum("hw,khw->hk", query[row[0]], key[row]) * 0.4
        # A token of size s is attended like s tokens.
        many = logits.exp() * (size[row] if sized else 1)
        torch.testing.assert_close(weights[row], (many / many.sum(1, keepdim=True)).mean(0), atol=1e-6, rtol=1e-5)
        assert weights[row].sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_selectors_decide_in_the_precision_of_the_model(name):
    """In a model in double precision, differences too small for single precision change the choice."""
    decision = decide_on([12, 9])
    assert decision.attended is not None
    key, query = 1 + 1e-9 * decision.attended.key.double(), decision.attended.query.double()
    # Tokens in two directions, nearly: all cosines across them are alike but for some parts in a billion.
    hidden = torch.eye(2, decision.hidden.shape[1], dtype=torch.float64)[decision.tokens.slot % 2] + 1
    fine = replace(decision, hidden=hidden + 1e-9 * decision.hidden.double())
    fine.attended = replace(decision.attended, query=query, key=key)
    coarse = replace(decision, hidden=fine.hidden.float())
    coarse.attended = replace(decision.attended, query=query.float(), key=key.float())
    one, other = (baseline(name, 0.8)(which).keep for which in (fine, coarse))
    if name == "tome":  # its keys are all alike: cosines differ by squares of a billionth, which double sees neither
        assert int(one.sum()) == int(other.sum())
    else:
        assert torch.equal(one, other) == (name in ("random", "uniform"))


class Positive(Selector):
    """Keeps tokens that are above 0 in some channel, as a policy keeps tokens with a positive logit."""

    def __call__(self, decision: Decision) -> Choice:
        return Choice(decision.hidden[:, 3] > 0)


@pytest.mark.parametrize("mode", ["merge", "drop"])
def test_a_row_that_is_not_finite_does_not_affect_others(tiny_vit, image_inputs, mode) -> None:
    # No comparison with NaN is true: all droppable tokens of that row are removed, and none is similar to another.
    broken = {"pixel_values": image_inputs["pixel_values"].clone()}
    broken["pixel_values"][0] = torch.nan
    good = {"pixel_values": image_inputs["pixel_values"][1:]}
    with Backbone(tiny_vit).attached() as backbone, torch.no_grad():
        reduce = ReducedModel(backbone, Positive(), [1, 2], mode)
        together, trace = reduce(broken)
        alone, own = reduce(good)
    assert torch.equal(trace.present[:, 1:], own.present) and not trace.present[1, 0, 1:].any()
    assert together["logits"][0].isnan().all()
    torch.testing.assert_close(together["logits"][1:], alone["logits"], atol=1e-5, rtol=1e-5)
