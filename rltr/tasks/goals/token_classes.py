"""One class for every token: named entities, parts of speech, and other dense heads.

Answers are ``(rows, longest, classes)``, ``ABSENT`` where a row has no token; labels are ``(rows, longest)``, -100
where a token has none. A dropped token keeps the state it had when it was dropped, and the head reads that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks.goals.goal import ABSENT, MAX_LOSS, Goal, PerRow, divergence, refuse_outside

UNLABELLED = -100
"""The label of special tokens, of padding, and of a word's tokens but the first: the field's habit, and torch's."""

TokenLogits = Float[Tensor, "rows tokens classes"]
TokenLabels = Int[Tensor, "rows tokens"]


@dataclass(frozen=True)
class TokenClassification(Goal):
    """The class with the highest logit, token by token.

    Args:
        longest: tokens of the longest example. Batches are padded to their own longest, answers to this one.
    """

    longest: int
    quality_name = "token accuracy"

    def read(self, output: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> TokenLogits:
        """See ``Goal``; padding is what ``attention_mask`` says.

        Raises:
            RltrError: if the head does not say one thing per token, or there are more tokens than expected.
        """
        logits: Tensor = output["logits"]
        present = inputs.get("attention_mask")
        if logits.ndim != 3 or (present is not None and logits.shape[:2] != present.shape):
            raise RltrError(
                f"a head with one answer per token gives logits (rows, tokens, classes), not {tuple(logits.shape)}; "
                "load the model for token classification"
            )
        rows, tokens, classes = logits.shape
        if tokens > self.longest:
            raise RltrError(f"an input has {tokens} tokens, but this task was made for at most {self.longest}")
        there = torch.ones_like(logits[..., 0], dtype=torch.bool) if present is None else present.bool()
        answers = logits.new_full((rows, self.longest, classes), ABSENT, dtype=torch.float32)
        answers[:, :tokens] = logits.float().where(there[..., None], ABSENT)
        return answers

    def shape(self, labels: Int[Tensor, "examples tokens"], classes: Sequence[str]) -> tuple[int, ...]:
        """See ``Goal``."""
        return (self.longest, len(classes))

    def fidelity(self, dense: TokenLogits, reduced: TokenLogits) -> PerRow:
        """Minus the mean of KL(dense || reduced) over a row's tokens, in nats, each clipped: -3 to 0."""
        there = _there(dense)
        each = divergence(dense, reduced).clamp_max(MAX_LOSS) * there
        return -each.sum(-1) / there.sum(-1)

    def quality(self, dense: TokenLogits, reduced: TokenLogits, labels: TokenLabels) -> PerRow:
        """Share of the labelled tokens that are answered rightly, 0 to 1."""
        labelled = labels != UNLABELLED
        return ((self.decide(reduced) == labels) & labelled).sum(-1) / labelled.sum(-1)

    def decide(self, answers: TokenLogits) -> TokenLabels:
        """See ``Goal``; padding has no label."""
        return answers.argmax(-1).where(_there(answers), UNLABELLED)

    def agreement(self, dense: TokenLogits, reduced: TokenLogits) -> PerRow:
        """Share of a row's tokens with the dense model's answer."""
        there = _there(dense)
        return ((self.decide(dense) == self.decide(reduced)) & there).sum(-1) / there.sum(-1)

    def chance(self, classes: Sequence[str]) -> float:
        """Token accuracy of guessing, if all classes are equally common."""
        return 1 / len(classes) if classes else 0.0

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """See ``Goal``; every row must have a labelled token, labels only where it has tokens, and both answers there.

        Raises:
            RltrError: if one of these does not hold, shapes do not fit each other, or answers are not finite.
        """
        if dense.ndim != 3 or dense.shape != reduced.shape or labels.shape != dense.shape[:2]:
            raise RltrError(
                "a score per token needs logits of shape (rows, tokens, classes) from both models and labels of shape "
                f"(rows, tokens), but got dense {tuple(dense.shape)}, reduced {tuple(reduced.shape)} and labels "
                f"{tuple(labels.shape)}"
            )
        super().check(dense, reduced, labels)
        if not torch.equal(_there(dense), _there(reduced)):
            raise RltrError(
                "the dense and the reduced model's answers are at other places of their rows; likely cause: inputs are "
                "padded at the start. Pad them at the end: tokenizer.padding_side = 'right'"
            )
        labelled = labels != UNLABELLED
        refuse_outside(labels[labelled], dense.shape[2])
        if bool((labelled & ~_there(dense)).any()):
            raise RltrError("a label stands where its row has no token: make labels with the model's own tokenizer")
        if not bool(labelled.any(1).all()):
            raise RltrError(f"a row has no labelled token, only {UNLABELLED}: leave such inputs out")


def _there(answers: TokenLogits) -> Bool[Tensor, "rows tokens"]:
    """Which tokens there are."""
    return answers[..., 0] != ABSENT
