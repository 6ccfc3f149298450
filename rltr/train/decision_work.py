"""A single decision on random hidden states, to measure the time of decisions."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rltr.policies.network import TokenPolicy
from rltr.policies.observation import Observation
from rltr.runtime import tokens as ragged
from rltr.runtime.attended import Attended
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Decision, Removal
from rltr.runtime.departure import remove_tokens


def decision_work(
    backbone: Backbone, network: TokenPolicy, rows: int, removal: Removal = "merge"
) -> Callable[[int], object]:
    """Return a function that runs one decision on random tokens: the policy, then merging or dropping.

    The policy's output is not used. A random half of the tokens is removed instead, so that every call does the same
    work.

    Args:
        backbone: supplies width, dtype, device and protected tokens.
        network: the policy.
        rows: rows of the batch, at least 1.
        removal: whether removed tokens are merged or dropped. Their nearest kept tokens are searched in both cases.

    Returns:
        A function of the number of tokens per row, to be timed.
    """
    generator = torch.Generator().manual_seed(0)
    prepared: dict[int, tuple[Decision, Tensor]] = {}

    def prepare(count: int) -> tuple[Decision, Tensor]:
        """Draw hidden states and a keep mask. Done once per count, because drawing is not part of a decision."""
        tokens = ragged.full_batch(rows, count, backbone.device)
        hidden = torch.randn(tokens.total, backbone.width, generator=generator).to(backbone.device, backbone.dtype)
        protected = tokens.slot < backbone.family.leading_tokens(backbone.config)
        width = backbone.width // backbone.config.num_attention_heads
        query = key = hidden.view(rows, count, -1, width).transpose(1, 2)
        attended = Attended(query, key, width**-0.5, tokens)
        decision = Decision(0, 0, hidden, tokens, protected, tokens.count, attended, backbone.family.causal)
        kept = (torch.rand(tokens.total, generator=generator).to(backbone.device) < 0.5) | protected
        return decision, kept

    @torch.no_grad()
    def decide(count: int) -> object:
        if count not in prepared:
            prepared[count] = prepare(count)
        decision, kept = prepared[count]
        # Copies drop the cached properties of the last call, since a real decision gets a new batch every time.
        tokens = replace(decision.tokens)
        assert decision.attended is not None
        decision = replace(decision, tokens=tokens, attended=replace(decision.attended, tokens=tokens))
        ones = torch.ones(rows, device=backbone.device, dtype=torch.float32)
        network(Observation.of_decision(decision, ones, ones))
        return remove_tokens(decision, kept, None, removal)

    return decide
