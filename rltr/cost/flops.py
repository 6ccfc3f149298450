"""Analytic FLOPs of transformer layers: matrix products only, a multiply-add counted as two.

``torch.utils.flop_counter`` counts the same, and tests compare both on real models. Norms, activations and softmax are
not counted. Neither are the few channels that size-weighted attention appends to queries and keys, which only serve to
use fused kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rltr.cost.model import dense
from rltr.cost.serialization import dump, restore
from rltr.errors import RltrError
from rltr.policies.network import PolicyConfig, decision_flops
from rltr.runtime.backbone import Backbone

QUERY_NAMES = ("q_proj", "query", "q_lin")
"""Names of query projections in transformers; their output is as wide as all query heads together."""
FUSED_NAMES = ("Wqkv", "qkv", "query_key_value")
"""Names of fused projections to queries, keys and values of equal widths."""
SHARED_NAME = "c_attn"
"""Name of a fused projection (GPT-2, GPT-BigCode) whose queries are as wide as its input; keys and values may be
narrower."""
GROUPED_NAME, OUTPUT_NAME = "qkv_proj", "o_proj"
"""Name of a fused projection with grouped keys (Phi-3), whose queries are as wide as the output projection's input."""


@dataclass(frozen=True)
class FlopsCost:
    """FLOPs of a row of ``n`` tokens: ``per_token * n + per_pair * n**2`` for each layer and each decision.

    Create one with :meth:`count`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: ClassVar[str] = "flops"
    """See :class:`CostModel`."""
    unit: ClassVar[str] = "FLOPs"
    """See :class:`CostModel`."""

    per_token: tuple[Annotated[int, Field(ge=0)], ...]
    """FLOPs of each layer's linear maps for one token."""
    per_pair: tuple[Annotated[int, Field(ge=0)], ...]
    """FLOPs of each layer's attention for one pair of query and key."""
    decision_per_token: Annotated[int, Field(ge=0)] = 0
    """FLOPs of one decision per token before it."""
    decision_per_pair: Annotated[int, Field(ge=0)] = 0
    """FLOPs of one decision per pair of tokens before it."""

    @classmethod
    def count(cls, layers: Sequence[nn.Module], per_token: int = 0, per_pair: int = 0) -> "FlopsCost":
        """Count the FLOPs of layers from the shapes of their weights.

        Args:
            layers: a backbone's layers, in order.
            per_token: FLOPs of one decision per token before it (policy network).
            per_pair: FLOPs of one decision per pair of tokens before it (redundancy, merging).

        Raises:
            RltrError: if a layer has other matrix products than linear maps and one attention.
        """
        priced = [layer_flops(layer) for layer in layers]
        return cls(tuple(token for token, _ in priced), tuple(pair for _, pair in priced), per_token, per_pair)

    @classmethod
    def for_training(cls, backbone: Backbone, policy: PolicyConfig) -> "FlopsCost":
        """Count the FLOPs of a model's layers and of a policy's decisions."""
        return cls.count(backbone.layers, *decision_flops(policy))

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.per_token)

    def layer(self, layer: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """FLOPs of one layer per row."""
        return self.per_token[layer] * counts + self.per_pair[layer] * counts**2

    def decision(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """FLOPs of one decision per row."""
        return self.decision_per_token * counts + self.decision_per_pair * counts**2

    def outside(self, grid: int) -> float:
        """Return 0, because embedding and head are not counted."""
        return 0.0

    def native_pass(self, grid: int) -> float:
        """FLOPs of all layers for one row of ``grid`` tokens."""
        return dense(self, self.depth, grid)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return dump(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FlopsCost":
        """Rebuild from :meth:`to_dict`.

        Raises:
            RltrError: if ``data`` does not describe such a cost model.
        """
        cost = restore(cls, data)
        if len(cost.per_token) != len(cost.per_pair):
            raise RltrError(
                f"per_token has {len(cost.per_token)} layers but per_pair has {len(cost.per_pair)}: the file is "
                "damaged. Count the FLOPs again"
            )
        return cost


def layer_flops(layer: nn.Module) -> tuple[int, int]:
    """FLOPs of one layer per token, and per pair of tokens.

    Raises:
        RltrError: if the layer does not have exactly one query projection with a known name, or has a matrix that does
            not belong to a linear map (a convolution, experts).
    """
    refusal = f"cannot count the FLOPs of a {type(layer).__name__}"
    fix = (
        "The cost model 'latency' measures instead of counting, so the model can be trained and attached with it; "
        "evaluation needs FLOPs"
    )
    linear, queries = 0, []
    for name, module in layer.named_modules():
        path, _, last = name.rpartition(".")
        if isinstance(module, nn.Linear | Conv1D):
            width_in, width_out = _widths(module)
            linear += 2 * width_in * width_out
            if last in QUERY_NAMES:
                queries.append(width_out)
            elif last in FUSED_NAMES:
                queries.append(width_out // 3)
            elif last == SHARED_NAME:
                queries.append(width_in)
            elif last == GROUPED_NAME:
                queries.append(_widths(layer.get_submodule(f"{path}.{OUTPUT_NAME}"))[0])
        elif any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            raise RltrError(
                f"{refusal}: {name or 'it'} ({type(module).__name__}) has a matrix but is not a linear map, "
                f"the only kind that can be counted. {fix}"
            )
    if any("lambda_q" in name for name, _ in layer.named_parameters()):
        raise RltrError(f"{refusal}: it computes two attentions and takes their difference. {fix}")
    if len(queries) != 1:
        raise RltrError(
            f"{refusal}: it has {len(queries)} query projections (linear maps called "
            f"{', '.join((*QUERY_NAMES, *FUSED_NAMES, SHARED_NAME, GROUPED_NAME))}), and must have exactly one. {fix}"
        )
    # Two matrix products, queries with keys and weights with values, of 2 FLOPs per pair and channel.
    return linear, 4 * queries[0]


def _widths(module: nn.Module) -> tuple[int, int]:
    """Input and output width of a linear map; GPT-2's linear maps are called ``Conv1D``."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features
