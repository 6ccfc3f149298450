"""One goal of every kind, and random answers for it."""

import pytest
import torch
from torch import Tensor

from rltr.tasks.goals import (
    Classification,
    Consistency,
    Embedding,
    Goal,
    MultiLabel,
    Regression,
    TokenClassification,
    ZeroShot,
)

CLASSES = ["a", "b", "c"]
GOALS: dict[str, Goal] = {
    "classification": Classification(),
    "token classification": TokenClassification(longest=5),
    "regression": Regression(deviation=0.7, spread=1.3),
    "several labels": MultiLabel(),
    "embedding": Embedding(width=6),
    "zero-shot": ZeroShot(torch.eye(3, 6), scale=10.0),
    "consistency": Consistency(MultiLabel(), (3,)),
}


def answers(goal: Goal, rows: int, seed: int) -> Tensor:
    """Random answers as the goal reads them; token rows have 1 to 5 tokens."""
    generator = torch.Generator().manual_seed(seed)
    output: dict[str, Tensor]
    if isinstance(goal, TokenClassification):
        present = (
            torch.arange(5) < torch.randint(1, 6, (rows, 1), generator=torch.Generator().manual_seed(rows))
        ).long()
        present[0] = 1
        output = {"logits": torch.randn(rows, 5, 3, generator=generator)}
        return goal.read(output, {"attention_mask": present})
    if isinstance(goal, Embedding):
        return goal.read({"last_hidden_state": torch.randn(rows, 4, 6, generator=generator)}, {})
    if isinstance(goal, ZeroShot):
        return goal.read({"image_embeds": torch.randn(rows, 6, generator=generator)}, {})
    return goal.read({"logits": 2 * torch.randn(rows, 3, generator=generator)}, {})


every_goal = pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS.keys())
