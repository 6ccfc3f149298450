"""Task scores: how well a reduced forward did, compared with the dense one. The reward adds them to minus the cost.

A score that cannot be computed is an error, never a number: a silent 0 would look like "as good as the dense model".
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rltr.errors import RltrError

MAX_KL = 3.0
"""Where fidelity is clipped, in nats: beyond that an answer is simply wrong, and outliers would rule the gradient."""

Logits = Float[Tensor, "rows classes"]
Labels = Int[Tensor, " rows"]
Score = Float[Tensor, " rows"]


def accuracy(dense_logits: Logits, reduced_logits: Logits, labels: Labels) -> Score:
    """1 if the reduced model is right, minus 1 if the dense model is right: -1, 0 or 1.

    The dense model is a free baseline: an input that both get right, or both get wrong, says nothing about tokens.
    """
    return (reduced_logits.argmax(-1) == labels).float() - (dense_logits.argmax(-1) == labels).float()


def fidelity(dense_logits: Logits, reduced_logits: Logits, labels: Labels) -> Score:
    """Minus KL(dense || reduced) in nats, clipped: -3 (another answer) to 0 (the same). Reads no labels."""
    dense, reduced = dense_logits.float().log_softmax(-1), reduced_logits.float().log_softmax(-1)
    divergence = (dense.exp() * (dense - reduced)).sum(-1)
    # Rounding can take the divergence of near-equal distributions a little below 0.
    return -divergence.clamp(0.0, MAX_KL)


def both(dense_logits: Logits, reduced_logits: Logits, labels: Labels) -> Score:
    """The sum of accuracy and fidelity: -4 to 1."""
    return accuracy(dense_logits, reduced_logits, labels) + fidelity(dense_logits, reduced_logits, labels)


SCORES: dict[str, Callable[[Logits, Logits, Labels], Score]] = {
    "accuracy": accuracy,
    "fidelity": fidelity,
    "both": both,
}
"""Every score by the name a recipe gives it."""


def score(kind: str, dense_logits: Tensor, reduced_logits: Tensor, labels: Tensor) -> Score:
    """Score each row of a batch.

    Args:
        kind: a name in ``SCORES``.
        dense_logits: ``(rows, classes)``, what the unreduced model says.
        reduced_logits: ``(rows, classes)``, what the reduced model says about the same inputs.
        labels: ``(rows,)``, the true classes, 0 to ``classes - 1``.

    Raises:
        RltrError: for an unknown kind, logits that are not finite or no classification head's, or labels outside it.
    """
    if kind not in SCORES:
        raise RltrError(f"there is no score {kind!r}; choose one of {', '.join(SCORES)}")
    _check(dense_logits, reduced_logits, labels)
    return SCORES[kind](dense_logits, reduced_logits, labels)


def _check(dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
    if dense.shape != reduced.shape or dense.ndim != 2 or labels.shape != dense.shape[:1]:
        raise RltrError(
            "a score needs logits of shape (rows, classes) from both models and one label per row, "
            f"but got dense {tuple(dense.shape)}, reduced {tuple(reduced.shape)} and labels {tuple(labels.shape)}"
        )
    classes = dense.shape[1]
    if classes < 2:
        raise RltrError("the model's head has a single output (regression), which no score fits; use a classifier")
    for name, logits in (("dense", dense), ("reduced", reduced)):
        bad = (~logits.isfinite().all(-1)).nonzero().flatten().tolist()
        if bad:
            raise RltrError(
                f"the {name} model's logits are NaN or infinite in rows {bad[:5]} of this batch; "
                "likely cause: a half-precision overflow or broken weights; try the model in float32"
            )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise RltrError(f"labels must be whole numbers, one class per row, not {labels.dtype}")
    outside = labels[(labels < 0) | (labels >= classes)].unique().tolist()
    if outside:
        raise RltrError(f"labels {outside[:5]} do not fit a head of {classes} classes, numbered 0 to {classes - 1}")
