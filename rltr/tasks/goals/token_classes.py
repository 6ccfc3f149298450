"""Token classification, such as named entities or parts of speech: one class per token.

Answers are ``(rows, longest, classes)``, ``ABSENT`` at padding. Labels are ``(rows, longest)``, -100 where a token has
none. A dropped token keeps the hidden state it had when it was dropped, and the head classifies that state.
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
"""The label of special tokens, of padding, and of all tokens of a word but the first, as usual in torch."""

TokenLogits = Float[Tensor, "rows tokens classes"]
TokenLabels = Int[Tensor, "rows tokens"]


@dataclass(frozen=True)
class TokenClassification(Goal):
    """The class with the highest logit, token by token.

    Args:
        longest: tokens of the longest example. Batches are padded to their own longest row, answers to this length.
    """

    longest: int
    quality_name = "token accuracy"

    def read(self, output: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> TokenLogits:
        """See ``Goal``; ``attention_mask`` marks the padding.

        Raises:
            RltrError: if the head does not give one output per token, or there are more tokens than expected.
        """
        logits: Tensor = output["logits"]
        present = inputs.get("attention_mask")
        if logits.ndim != 3 or (present is not None and logits.shape[:2] != present.shape):
            raise RltrError(
                f"token classification needs logits of shape (rows, tokens, classes), not {tuple(logits.shape)}; "
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
        """Share of the labelled tokens that are classified correctly, 0 to 1."""
        labelled = labels != UNLABELLED
        return ((self.decide(reduced) == labels) & labelled).sum(-1) / labelled.sum(-1)

    def decide(self, answers: TokenLogits) -> TokenLabels:
        """See ``Goal``; padding gets the label -100."""
        return answers.argmax(-1).where(_there(answers), UNLABELLED)

    def agreement(self, dense: TokenLogits, reduced: TokenLogits) -> PerRow:
        """Share of a row's tokens for which both models predict the same class."""
        there = _there(dense)
        return ((self.decide(dense) == self.decide(reduced)) & there).sum(-1) / there.sum(-1)

    def chance(self, classes: Sequence[str]) -> float:
        """Token accuracy of guessing, if all classes are equally frequent."""
        return 1 / len(classes) if classes else 0.0

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """See ``Goal``.

        Raises:
            RltrError: if a row has no labelled token or a label at its padding, both models' answers are at different
                positions, shapes do not fit each other, or answers are not finite.
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
                "the dense and the reduced model's answers are at different positions of their rows; likely cause: "
                "inputs are padded at the start. Pad them at the end: tokenizer.padding_side = 'right'"
            )
        labelled = labels != UNLABELLED
        refuse_outside(labels[labelled], dense.shape[2])
        if bool((labelled & ~_there(dense)).any()):
            raise RltrError("a label is at a position without a token: make labels with the model's own tokenizer")
        if not bool(labelled.any(1).all()):
            raise RltrError(f"a row has no labelled token, only {UNLABELLED}: leave such inputs out")


def _there(answers: TokenLogits) -> Bool[Tensor, "rows tokens"]:
    """Mask of the tokens that exist: False at padding."""
    return answers[..., 0] != ABSENT
