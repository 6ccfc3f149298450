"""Types that selectors and the runtime share: a decision's inputs, the selector's choice, the trace of kept tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr.runtime import merging
from rltr.runtime.attended import Attended
from rltr.runtime.families import PooledToken
from rltr.runtime.redundancy import Redundancy, redundancy
from rltr.runtime.tokens import Tokens

Removal: TypeAlias = Literal["merge", "drop"]
"""What happens to a removed token: ``merge`` averages it into its most similar kept token, ``drop`` discards it."""


@dataclass
class Decision:
    """The state of a forward pass before a decision layer: everything a selector may read.

    Attributes:
        index: number of this decision in the forward pass, from 0.
        layer: index of the layer that runs next.
        hidden: hidden states of the packed tokens.
        tokens: the ragged batch they belong to.
        protected: tokens that are kept regardless of the choice.
        begun: number of tokens of each row before the first decision.
        attended: queries and keys of the previous layer's attention; None before the first layer.
        causal: whether attention is causal; then removed tokens are merged only into later ones.
    """

    index: int
    layer: int
    hidden: Float[Tensor, "total width"]
    tokens: Tokens
    protected: Bool[Tensor, " total"]
    begun: Int[Tensor, " rows"]
    attended: Attended | None
    causal: bool = False

    @property
    def pooled(self) -> PooledToken:
        """The pooled token: which token of a row the model's head reads."""
        return "last" if self.causal else "first"

    @cached_property
    def normalized(self) -> Float[Tensor, "total width"]:
        """Hidden states with mean 0 and length 1, in float32 or more: cosines need them, and policies read them."""
        return merging.unit_length(self.hidden)

    @cached_property
    def redundancy(self) -> Redundancy:
        """Which tokens have near-duplicates. The selector and merging share the result."""
        return redundancy(self.normalized, self.tokens, self.protected, self.causal)


@dataclass(frozen=True)
class Choice:
    """A selector's answer.

    Attributes:
        keep: which packed tokens to keep; protected ones are kept anyway.
        into: for each removed token, in packed order, the packed index of the kept token it is merged into. None merges
            it into the most similar kept token of the other set (see :mod:`rltr.runtime.redundancy`). If tokens are
            dropped instead of merged, the output of that kept token is used in place of the removed one's.
    """

    keep: Bool[Tensor, " total"]
    into: Int[Tensor, " dropped"] | None = None


Decide: TypeAlias = Callable[[Decision], Choice]


@dataclass(frozen=True)
class Trace:
    """Which tokens were left before and after each decision.

    Attributes:
        stages: the ragged batch before the first decision, and after each one.
        layers: the decision layers.
    """

    stages: tuple[Tokens, ...]
    layers: tuple[int, ...]

    @property
    def grid(self) -> int:
        """Original tokens per row, padding included."""
        return self.stages[0].grid

    @cached_property
    def present(self) -> Bool[Tensor, "stages rows grid"]:
        """Which original tokens were left before the first decision, and after each one."""
        return torch.stack([stage.present for stage in self.stages])

    def counts_per_layer(self, depth: int) -> Int[Tensor, "layers rows"]:
        """Number of tokens per row in each of the model's ``depth`` layers."""
        stage = [sum(decision <= layer for decision in self.layers) for layer in range(depth)]
        return torch.tensor([self.stages[i].counts for i in stage])
