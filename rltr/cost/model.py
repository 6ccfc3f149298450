"""The interface of cost models.

A cost model gives the cost of *one row* (one input of a batch) by its number of tokens. Costs of layers are added, so
the cost of a span of layers and of the dense model follow from :meth:`CostModel.layer`. :mod:`rltr.cost.pricing`
computes prices per token from them.
"""

from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rltr.policies.network import PolicyConfig
from rltr.runtime.backbone import Backbone


@runtime_checkable
class CostModel(Protocol):
    """Cost of a layer, a decision and a whole native pass for a row, by its number of tokens.

    ``flops.py`` is the smallest implementation.
    """

    name: ClassVar[str]
    """Its name in recipes and files: one word in lower case."""
    unit: ClassVar[str]
    """Unit of all costs, for tables and plots: ``"FLOPs"``, ``"seconds"``."""

    @property
    def depth(self) -> int:
        """Number of layers."""
        ...

    def layer(self, layer: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of layer ``layer`` for rows of ``counts`` tokens: at least 0, and never lower for more tokens."""
        ...

    def decision(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of one decision (selector, redundancy, merging, packing) for rows with ``counts`` tokens before it."""
        ...

    def outside(self, grid: int) -> float:
        """Cost of one row outside of layers and decisions (embedding, head); 0 if that is not counted.

        Args:
            grid: tokens per row of the batch, padding included.
        """
        ...

    def native_pass(self, grid: int) -> float:
        """Cost of one row in a whole native pass over ``grid`` tokens, which include padding."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """All that :meth:`from_dict` needs, as JSON types; ``"name"`` is :attr:`name`."""
        ...

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CostModel":
        """Rebuild from :meth:`to_dict`.

        Raises:
            RltrError: if ``data`` does not describe such a cost model.
        """
        ...


@runtime_checkable
class CountedCost(CostModel, Protocol):
    """A cost model that needs no measurement, unlike latency (``train/cost_model.py``)."""

    @classmethod
    def for_training(cls, backbone: Backbone, policy: PolicyConfig) -> "CountedCost":
        """Create the cost model of a training whose recipe names it (``cost.kind``).

        Args:
            backbone: the frozen model.
            policy: shape of the policy, whose own cost is part of :meth:`decision`.

        Raises:
            RltrError: if the costs of this model's layers cannot be counted.
        """
        ...


def span(cost: CostModel, start: int, stop: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Cost of layers ``start`` … ``stop - 1`` for rows of ``counts`` tokens."""
    total = torch.zeros_like(counts)
    for layer in range(start, stop):
        total = total + cost.layer(layer, counts)
    return total


def dense(cost: CostModel, depth: int, grid: int) -> float:
    """Cost of all ``depth`` layers for one row of ``grid`` tokens without a decision; savings are relative to it.

    Embedding and head are left out, because they are the same with and without a policy. ``rltr.evaluate`` measures the
    time of whole models.
    """
    counts = torch.tensor([float(grid)], dtype=torch.float64, device="cpu")
    return span(cost, 0, depth, counts).item()
