"""What a cost model must answer, and what follows from it.

A cost model prices *one row* (one input of a batch) by how many tokens it holds. Layers add up, so the cost of any span
of layers and of the dense model follow from :meth:`CostModel.layer`. :mod:`rltr.cost.pricing` makes prices per token.
"""

from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rltr.policies.network import PolicyConfig
from rltr.runtime.backbone import Backbone


@runtime_checkable
class CostModel(Protocol):
    """Says what each layer, each decision and a whole native pass cost for a row that holds so many tokens.

    ``flops.py`` is the smallest complete one.
    """

    name: ClassVar[str]
    """What recipes and files call it: lower case, one word."""
    unit: ClassVar[str]
    """What the numbers are, for tables and plots: ``"FLOPs"``, ``"seconds"``."""

    @property
    def depth(self) -> int:
        """Number of layers that it prices."""
        ...

    def layer(self, layer: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of layer ``layer`` for rows of ``counts`` tokens: at least 0, never falling as the count grows."""
        ...

    def decision(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of one decision (selector, redundancy, merging, packing) for rows of ``counts`` tokens before it."""
        ...

    def outside(self, grid: int) -> float:
        """Cost of one row outside of layers and decisions (embedding, head); 0 where that is not priced.

        Args:
            grid: tokens per row of the batch, padding included.
        """
        ...

    def native_pass(self, grid: int) -> float:
        """Cost of one row of a whole native pass over ``grid`` tokens, padding included: the model computes it, too."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to rebuild this model, ready for JSON; ``"name"`` is :attr:`name`."""
        ...

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CostModel":
        """Rebuild what :meth:`to_dict` gave.

        Raises:
            RltrError: if ``data`` is not such a dictionary.
        """
        ...


@runtime_checkable
class CountedCost(CostModel, Protocol):
    """A cost model that a training makes from the model alone; measured times take more (``train/cost_model.py``)."""

    @classmethod
    def for_training(cls, backbone: Backbone, policy: PolicyConfig) -> "CountedCost":
        """The cost model of a training whose recipe names it (``cost.kind``).

        Args:
            backbone: the frozen model, on the device where it runs.
            policy: shape of the policy that decides, whose own cost belongs to :meth:`decision`.

        Raises:
            RltrError: if this model's layers cannot be priced so.
        """
        ...


def span(cost: CostModel, start: int, stop: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Cost of layers ``start`` … ``stop - 1`` for rows that hold ``counts`` tokens through all of them."""
    total = torch.zeros_like(counts)
    for layer in range(start, stop):
        total = total + cost.layer(layer, counts)
    return total


def dense(cost: CostModel, depth: int, grid: int) -> float:
    """Cost of one row through all ``depth`` layers with all ``grid`` tokens and no decision: the measure of savings.

    Embedding and head are not in it: they are the same with and without a selector. Whole-model times are measured by
    ``rltr.evaluate``.
    """
    counts = torch.tensor([float(grid)], dtype=torch.float64, device="cpu")
    return span(cost, 0, depth, counts).item()
