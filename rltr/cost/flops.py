"""Analytic FLOPs of transformer layers: matrix products only, a multiply-add counted as two.

This is what ``torch.utils.flop_counter`` counts, and the tests hold it to that on real models. Norms, activations and
softmax are left out there and here. So are the few channels that size-weighted attention adds to queries and keys: they
are a way to reach fused kernels, so their price is a matter of time, not of FLOPs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import ConfigDict
from torch import Tensor, nn

from rltr.cost.stored import dump, restore
from rltr.errors import RltrError

QUERY_NAMES = ("q_proj", "query", "q_lin")
"""What transformers calls a layer's query projection: as wide as all heads together, also with grouped keys."""


@dataclass(frozen=True)
class FlopsCost:
    """FLOPs per row: ``per_token * n + per_pair * n**2`` for each layer and for a decision.

    Make one with :meth:`count`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: ClassVar[str] = "flops"
    unit: ClassVar[str] = "FLOPs"

    per_token: tuple[int, ...]
    """Per layer: FLOPs of its linear maps for one token."""
    per_pair: tuple[int, ...]
    """Per layer: FLOPs of its attention for one (query, key) pair."""
    decision_per_token: int = 0
    decision_per_pair: int = 0

    @classmethod
    def count(cls, layers: Sequence[nn.Module], per_token: int = 0, per_pair: int = 0) -> "FlopsCost":
        """Price ``layers`` from their modules alone.

        Args:
            layers: a backbone's layers, in order.
            per_token: FLOPs of one decision for each token it sees (selector network).
            per_pair: FLOPs of one decision for each pair of tokens it sees (redundancy, merging).

        Raises:
            RltrError: if a layer multiplies matrices in a way this model does not know.
        """
        priced = [layer_flops(layer) for layer in layers]
        return cls(tuple(token for token, _ in priced), tuple(pair for _, pair in priced), per_token, per_pair)

    def layer(self, layer: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """FLOPs of one layer per row."""
        return self.per_token[layer] * counts + self.per_pair[layer] * counts**2

    def decision(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """FLOPs of one decision per row."""
        return self.decision_per_token * counts + self.decision_per_pair * counts**2

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return dump(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FlopsCost":
        """Rebuild from :meth:`to_dict`; raises RltrError if ``data`` is something else."""
        return restore(cls, data)


def layer_flops(layer: nn.Module) -> tuple[int, int]:
    """FLOPs of one layer (per token, per pair of tokens).

    Raises:
        RltrError: if the layer has not exactly one attention with a separate query projection, or holds a matrix that
            is not an ``nn.Linear``'s (a convolution, experts, a fused attention).
    """
    refusal = f"cannot count the FLOPs of a {type(layer).__name__}"
    fix = "Use the cost model 'latency', which measures instead of counting"
    linear, queries = 0, []
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            linear += 2 * module.in_features * module.out_features
            if name.rpartition(".")[2] in QUERY_NAMES:
                queries.append(module.out_features)
        elif any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            raise RltrError(
                f"{refusal}: {name or 'it'} ({type(module).__name__}) holds a matrix but is no nn.Linear, "
                f"the only kind that is priced. {fix}"
            )
    if len(queries) != 1:
        raise RltrError(
            f"{refusal}: it has {len(queries)} query projections (nn.Linear modules called {', '.join(QUERY_NAMES)}), "
            f"and exactly one is priced. {fix}"
        )
    # Queries times keys, then weights times values: two products of 2 FLOPs per pair and channel.
    return linear, 4 * queries[0]
