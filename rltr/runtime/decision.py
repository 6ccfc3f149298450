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
"""What happens to a dropped token: ``merge`` averages it into its most similar kept one, ``drop`` loses it."""


@dataclass
class Decision:
    """A pause of the forward pass before a layer: everything a selector may look at.

    Attributes:
        index: which decision of this forward pass, from 0.
        layer: the layer about to run.
        hidden: hidden states of the packed tokens.
        tokens: the ragged batch they belong to.
        protected: tokens that are kept regardless of the choice.
        begun: tokens each row had before the first decision.
        attended: what the previous layer's attention worked on; None before the first layer.
        causal: whether tokens see only those before them; then dropped ones are merged into later ones only.
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
        """Hidden states with mean 0 and length 1, at least in float32: for cosines, and what policies read."""
        return merging.unit_length(self.hidden)

    @cached_property
    def redundancy(self) -> Redundancy:
        """Which tokens have near-duplicates: computed once, for the selector and for merging."""
        return redundancy(self.normalized, self.tokens, self.protected, self.causal)


@dataclass(frozen=True)
class Choice:
    """A selector's answer.

    Attributes:
        keep: which packed tokens stay; protected ones stay anyway.
        into: for each dropped token, in packed order, the packed index of the kept token it is merged into; None means
            the most similar kept one of the other set (see :mod:`rltr.runtime.redundancy`). Unused when tokens are
            dropped, not merged.
    """

    keep: Bool[Tensor, " total"]
    into: Int[Tensor, " dropped"] | None = None


Decide: TypeAlias = Callable[[Decision], Choice]


@dataclass(frozen=True)
class Trace:
    """Which tokens were in the stream before and after each decision.

    Attributes:
        stages: the ragged batch before the first decision, then after each.
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
        """Which original tokens were in the stream before the first decision, then after each."""
        return torch.stack([stage.present for stage in self.stages])

    def counts_per_layer(self, depth: int) -> Int[Tensor, "layers rows"]:
        """Tokens that each of ``depth`` layers worked on, per row."""
        stage = [sum(decision <= layer for decision in self.layers) for layer in range(depth)]
        return torch.tensor([self.stages[i].counts for i in stage])
