"""Analytic FLOPs of transformer layers: matrix products only, a multiply-add counted as two.

This is what ``torch.utils.flop_counter`` counts, and the tests hold it to that on real models. Norms, activations and
softmax are left out there and here. So are the few channels that size-weighted attention adds to queries and keys: they
are a way to reach fused kernels, so their price is a matter of time, not of FLOPs.
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
"""What transformers calls a layer's query projection: as wide as all heads together, also with grouped keys."""
FUSED_NAMES = ("Wqkv", "qkv", "query_key_value")
"""What it calls a projection to queries, keys and values of equal widths at once."""
SHARED_NAME = "c_attn"
"""One to queries as wide as what comes in, and to keys and values that heads may share (GPT-2 and GPT-BigCode)."""
GROUPED_NAME, OUTPUT_NAME = "qkv_proj", "o_proj"
"""One to queries and fewer keys and values (Phi-3): queries are as wide as what the output projection takes."""


@dataclass(frozen=True)
class FlopsCost:
    """FLOPs per row: ``per_token * n + per_pair * n**2`` for each layer and for a decision.

    Make one with :meth:`count`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: ClassVar[str] = "flops"
    """See :class:`CostModel`."""
    unit: ClassVar[str] = "FLOPs"
    """See :class:`CostModel`."""

    per_token: tuple[Annotated[int, Field(ge=0)], ...]
    """Per layer: FLOPs of its linear maps for one token."""
    per_pair: tuple[Annotated[int, Field(ge=0)], ...]
    """Per layer: FLOPs of its attention for one (query, key) pair."""
    decision_per_token: Annotated[int, Field(ge=0)] = 0
    """FLOPs of one decision for each token that it sees."""
    decision_per_pair: Annotated[int, Field(ge=0)] = 0
    """FLOPs of one decision for each (query, key) pair of tokens that it sees."""

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

    @classmethod
    def for_training(cls, backbone: Backbone, policy: PolicyConfig) -> "FlopsCost":
        """FLOPs of a model's layers, and of the decisions of a policy of this shape."""
        return cls.count(backbone.layers, *decision_flops(policy))

    @property
    def depth(self) -> int:
        """Number of layers that it prices."""
        return len(self.per_token)

    def layer(self, layer: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """FLOPs of one layer per row."""
        return self.per_token[layer] * counts + self.per_pair[layer] * counts**2

    def decision(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """FLOPs of one decision per row."""
        return self.decision_per_token * counts + self.decision_per_pair * counts**2

    def outside(self, grid: int) -> float:
        """Nothing: embedding and head are not counted."""
        return 0.0

    def native_pass(self, grid: int) -> float:
        """FLOPs of all layers for one row of ``grid`` tokens."""
        return dense(self, self.depth, grid)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return dump(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FlopsCost":
        """Rebuild from :meth:`to_dict`; raises RltrError if ``data`` is something else."""
        cost = restore(cls, data)
        if len(cost.per_token) != len(cost.per_pair):
            raise RltrError(
                f"these FLOPs are of {len(cost.per_token)} layers per token and of {len(cost.per_pair)} per pair: "
                "damaged? Count them again"
            )
        return cost


def layer_flops(layer: nn.Module) -> tuple[int, int]:
    """FLOPs of one layer (per token, per pair of tokens).

    Raises:
        RltrError: if the layer has not exactly one attention whose query projection has a known name, or holds a matrix
            that is no linear map's (a convolution, experts).
    """
    refusal = f"cannot count the FLOPs of a {type(layer).__name__}"
    fix = (
        "The cost model 'latency' measures instead of counting, so the model can be trained and attached with it; "
        "evaluation reports FLOPs and cannot do without"
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
                f"{refusal}: {name or 'it'} ({type(module).__name__}) holds a matrix but is no linear map, "
                f"the only kind that is priced. {fix}"
            )
    if any("lambda_q" in name for name, _ in layer.named_parameters()):
        raise RltrError(f"{refusal}: it attends twice, and takes the difference. {fix}")
    if len(queries) != 1:
        raise RltrError(
            f"{refusal}: it has {len(queries)} query projections (linear maps called "
            f"{', '.join((*QUERY_NAMES, *FUSED_NAMES, SHARED_NAME, GROUPED_NAME))}), and exactly one is priced. {fix}"
        )
    # Queries times keys, then weights times values: two products of 2 FLOPs per pair and channel.
    return linear, 4 * queries[0]


def _widths(module: nn.Module) -> tuple[int, int]:
    """Numbers that a linear map takes and gives, for each token; GPT-2's is called a convolution."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features
