"""What a selector may ask of the attention before a decision layer. Attention weights are never computed for it."""

import torch
from jaxtyping import Float
from torch import Tensor

from rltr import tokens as ragged
from rltr.forward import Forward
from rltr.tokens import Tokens


def observe_keys(forward: Forward) -> None:
    """Have ``decision.observed["keys"]``: the last layer's keys ``(total, head width)``, averaged over heads."""

    def keep_keys(query: Tensor, key: Tensor, scaling: float) -> None:
        if forward.layer + 1 in forward.layers:
            forward.observed["keys"] = key.mean(1).flatten(0, 1)

    forward.observe.append(keep_keys)


def observe_first_token(forward: Forward) -> None:
    """Have ``decision.observed["first_token"]``: what each row's first token gave every token ``(total,)``."""

    def keep_attention(query: Tensor, key: Tensor, scaling: float) -> None:
        if forward.layer + 1 in forward.layers and forward.tokens is not None:
            query, key = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key))
            forward.observed["first_token"] = first_token_attention(query, key, forward.tokens, scaling)

    forward.observe.append(keep_attention)


def first_token_attention(
    query: Float[Tensor, "total heads width"],
    key: Float[Tensor, "total heads width"],
    tokens: Tokens,
    scaling: float,
) -> Float[Tensor, " total"]:
    """Attention of each row's first token to every token of the row, averaged over heads; each row sums to 1."""
    first = query[tokens.start][tokens.row]
    logits = (first * key).sum(-1).float() * scaling
    if tokens.size is not None:
        logits = logits + tokens.log_size[:, None]
    weights = ragged.pad(logits, tokens, -torch.inf).softmax(1).mean(-1)
    return ragged.unpad(weights, tokens)
