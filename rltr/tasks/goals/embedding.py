"""Embeddings of sentences or images, compared by cosine similarity; labels are not needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from rltr.errors import RltrError
from rltr.recipe.data_options import Pooling
from rltr.tasks.goals.goal import Goal, PerRow

Vectors = Float[Tensor, "rows width"]


@dataclass(frozen=True)
class Embedding(Goal):
    """Cosine similarity of the reduced model's embedding with the dense model's.

    Args:
        width: number of dimensions of the embedding.
        pooling: ``mean`` over all positions that are not padding, or ``cls``, the first token of each row that is not
            padding. In a reduced model, the position of a dropped token holds the state of the token that represents
            it. Unused if the model pools itself.
        output: the field of the model's output: ``last_hidden_state`` with one state per token, or a field with one
            vector per input, such as ``image_embeds``.
    """

    width: int
    pooling: Pooling = "mean"
    output: str = "last_hidden_state"
    quality_name = "cosine"

    def read(self, output: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> Vectors:
        """See ``Goal``."""
        states: Tensor = output[self.output]
        if states.ndim == 2:
            return states
        present = inputs.get("attention_mask")
        if self.pooling == "cls":
            if present is None:
                return states[:, 0]
            first = present.int().argmax(1)  # argmax returns the first of equal values
            return states[torch.arange(len(states), device=states.device), first]
        if present is None:
            return states.mean(1)
        weight = present.to(states.dtype)
        return torch.einsum("rtw,rt->rw", states, weight) / weight.sum(1, keepdim=True)

    def shape(self, labels: Shaped[Tensor, "examples *label"], classes: Sequence[str]) -> tuple[int, ...]:
        """See ``Goal``."""
        return (self.width,)

    def fidelity(self, dense: Vectors, reduced: Vectors) -> PerRow:
        """Cosine of both embeddings, minus 1: -2 to 0."""
        return self._cosine(dense, reduced) - 1

    def quality(self, dense: Vectors, reduced: Vectors, labels: Shaped[Tensor, "rows *label"]) -> PerRow:
        """Cosine of both embeddings: 1 for the dense model's own. Labels are not used."""
        return self._cosine(dense, reduced)

    def decide(self, answers: Vectors) -> Int[Tensor, " rows"]:
        """The index of the most similar other input of the batch, as a search would return it; 0 if it is alone."""
        unit = normalize(answers.float(), dim=-1)
        return (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(-1)

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """See ``Goal``."""
        if dense.ndim != 2:
            raise RltrError(f"embeddings must have shape (rows, width), one vector per input, not {tuple(dense.shape)}")
        super().check(dense, reduced, labels)

    @staticmethod
    def _cosine(dense: Vectors, reduced: Vectors) -> PerRow:
        # Rounding can take the cosine of equal vectors a little above 1.
        return cosine_similarity(dense.float(), reduced.float(), dim=-1).clamp(-1.0, 1.0)
