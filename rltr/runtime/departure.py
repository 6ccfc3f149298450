"""Apply a decision: delete removed tokens, or average them into kept ones.

Each removed token gets a representative: a kept token whose output is used in its place, because heads may read the
outputs of all original tokens.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr.runtime import merging
from rltr.runtime import tokens as ragged
from rltr.runtime.decision import Decision, Removal
from rltr.runtime.tokens import Tokens


@contextmanager
def without_grad_or_autocast(device: torch.device) -> Iterator[None]:
    """Disable gradients and autocast, so that decisions are computed with the same precision as in training.

    Do not switch greenlets inside: both are thread state.
    """
    with ExitStack() as stack:
        # Each is entered only if it changes something: entering autocast takes as long as several operations.
        if torch.is_grad_enabled():
            stack.enter_context(torch.no_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


@dataclass(frozen=True)
class Remaining:
    """The tokens that are left after a decision.

    Attributes:
        hidden: hidden states of the kept tokens.
        tokens: the ragged batch of the kept tokens.
        kept: packed indices of the kept tokens before the decision.
        representative: for each token before the decision, the packed index, after it, of the token whose output is
            used in its place; for a kept token, its own. Dropped tokens have one, too.
    """

    hidden: Float[Tensor, "kept width"]
    tokens: Tokens
    kept: Int[Tensor, " kept"]
    representative: Int[Tensor, " total"]


def remove_tokens(
    decision: Decision, kept: Bool[Tensor, " total"], into: Int[Tensor, " dropped"] | None, removal: Removal
) -> Remaining | None:
    """Drop or merge the tokens that are not kept. Returns None if all are kept.

    Args:
        decision: the state of the forward pass.
        kept: which tokens to keep, protected ones included.
        into: see :class:`rltr.runtime.decision.Choice`.
        removal: whether the others are merged or dropped.
    """
    tokens, hidden = decision.tokens, decision.hidden
    with without_grad_or_autocast(hidden.device):
        stay, found = ragged.where(kept), None
        if len(stay) == tokens.total:
            return None
        if into is None:
            leave, into, found = decision.redundancy.partners(kept)
        else:
            leave = ragged.where(~kept)
        representative = kept.cumsum(0).sub_(1)
        partner = representative.index_select(0, into)
        representative.index_copy_(0, leave, partner)
        if found is not None:
            # Tokens without a merge partner are represented by their most similar kept token. It may be a protected
            # one, because nothing is merged into it, and a row always has one.
            lost = torch.zeros_like(kept).index_fill_(0, leave[~found], True)
            representative[lost] = representative[merging.nearest(decision.normalized, tokens, lost, kept)[1]]
            leave, partner = leave[found], partner[found]
    if removal == "drop":
        return Remaining(hidden.index_select(0, stay), ragged.select(tokens, stay), stay, representative)
    return Remaining(*merging.merge(hidden, tokens, stay, leave, partner), stay, representative)
