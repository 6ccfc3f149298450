"""Apply a decision: dropped tokens are deleted, or averaged into kept ones.

For every dropped token some kept one is noted whose output is used in its place, because heads may read all places.
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
def undisturbed(device: torch.device) -> Iterator[None]:
    """Disable gradients and autocast, so that decisions are computed with the same precision as in training.

    No greenlet may be switched inside: both are states of the thread.
    """
    with ExitStack() as stack:
        # Neither is entered where it would change nothing: the second takes as long as several operations.
        if torch.is_grad_enabled():
            stack.enter_context(torch.no_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


@dataclass(frozen=True)
class Remaining:
    """What is left after a decision.

    Attributes:
        hidden: hidden states of the tokens that stay.
        tokens: the ragged batch of those.
        stay: their packed indices before.
        stands: for each token that was there before, which of those that stay stands for it, counted from 0; its own
            place for one that stays. Some token does whatever happens to those that leave: heads may read all places.
    """

    hidden: Float[Tensor, "kept width"]
    tokens: Tokens
    stay: Int[Tensor, " kept"]
    stands: Int[Tensor, " total"]


def remove_tokens(
    decision: Decision, kept: Bool[Tensor, " total"], into: Int[Tensor, " dropped"] | None, removal: Removal
) -> Remaining | None:
    """Remove or merge the tokens that are not kept; None if all of them are.

    Args:
        decision: what was decided about.
        kept: which tokens stay; all protected ones do.
        into: see :class:`rltr.runtime.decision.Choice`.
        removal: what happens to the others.
    """
    tokens, hidden = decision.tokens, decision.hidden
    with undisturbed(hidden.device):
        stay, found = ragged.where(kept), None
        if len(stay) == tokens.total:
            return None
        if into is None:
            leave, into, found = decision.redundancy.partners(kept)
        else:
            leave = ragged.where(~kept)
        stands = kept.cumsum(0).sub_(1)
        place = stands.index_select(0, into)
        stands.index_copy_(0, leave, place)
        if found is not None:
            # These have no merge partner, so the output of their most similar kept token is used in their place.
            # Protected tokens count here: a row always keeps one, and nothing is merged into it by this.
            lost = torch.zeros_like(kept).index_fill_(0, leave[~found], True)
            stands[lost] = stands[merging.nearest(decision.normalized, tokens, lost, kept)[1]]
            leave, place = leave[found], place[found]
    if removal == "drop":
        return Remaining(hidden.index_select(0, stay), ragged.select(tokens, stay), stay, stands)
    return Remaining(*merging.merge(hidden, tokens, stay, leave, place), stay, stands)
