"""What the token policy sees at a decision, packed: the same in rollouts, in updates and in production."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr import tokens as ragged
from rltr.forward import Decision
from rltr.tokens import Tokens


@dataclass(frozen=True)
class Observation:
    """Packed tokens of some rows and a few numbers per row.

    Attributes:
        hidden: hidden states before the decision layer, with mean 0 and length 1 each.
        redundancy: how replaceable each token is (see :mod:`rltr.redundancy`).
        tokens: the ragged batch they belong to.
        protected: tokens that cannot leave.
        layer: the decision layer of each row.
        price: what keeping one token until the next decision costs, in reward units, above 0.
        kept: share of the row's tokens still in the stream, 0 to 1.
    """

    hidden: Float[Tensor, "total width"]
    redundancy: Float[Tensor, "total 3"]
    tokens: Tokens
    protected: Bool[Tensor, " total"]
    layer: Int[Tensor, " rows"]
    price: Float[Tensor, " rows"]
    kept: Float[Tensor, " rows"]

    @classmethod
    def of_decision(
        cls, decision: Decision, price: Float[Tensor, " rows"], kept: Float[Tensor, " rows"]
    ) -> "Observation":
        """What there is to see at a pause of the forward pass."""
        tokens = decision.tokens
        layer = torch.full((len(tokens.counts),), decision.layer, device=decision.hidden.device)
        return cls(decision.unit, decision.redundancy.features(), tokens, decision.protected, layer, price, kept)

    @classmethod
    def of_grid(cls, grid: Mapping[str, Tensor]) -> "Observation":
        """Pack the environment's observation, in which every original token has its place."""
        present = grid["present"].bool()
        tokens = ragged.pack(present)
        index = tokens.grid_index
        return cls(
            grid["tokens"].flatten(0, 1).index_select(0, index),
            grid["redundancy"].flatten(0, 1).index_select(0, index),
            tokens,
            ~grid["alive"].flatten().bool().index_select(0, index),
            grid["layer"][:, 0].long(),
            grid["price"][:, 0],
            grid["kept"][:, 0],
        )

    def to_grid(self) -> dict[str, Tensor]:
        """Undo :meth:`of_grid`."""
        return {
            "tokens": ragged.grid_of(self.tokens, self.hidden),
            "redundancy": ragged.grid_of(self.tokens, self.redundancy),
            "present": self.tokens.present,
            "alive": ragged.grid_of(self.tokens, ~self.protected),
            "layer": self.layer[:, None],
            "price": self.price[:, None],
            "kept": self.kept[:, None],
        }
