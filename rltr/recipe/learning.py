"""Recipe fields of the reduction, the cost model, the policy and the learner."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rltr.recipe.group import LARGE, Group
from rltr.system.files import at_home

COST_WEIGHT = (0.01, 8.0)
"""Default range of the cost weights in training, for recipes and environments."""


class ReductionGroup(Group):
    """The decision layers, and how tokens are removed."""

    layers: Literal["auto"] | list[int] = Field(
        "auto",
        description="the decision layers: before each of them tokens may be removed; in ascending order, 0 is the "
        "first; auto takes every second one, beginning with layer 0, and none of the last two",
    )
    removal: Literal["merge", "drop"] = Field(
        "merge", description="merge averages a removed token into its most similar kept one; drop discards it"
    )
    attention: str = Field(
        "auto",
        description="the attention backend for rows of different lengths; auto takes the fastest for the device "
        "(auto, sdpa-per-row, sdpa-grouped, sdpa-padded, varlen, flash)",
    )

    @field_validator("attention")
    @classmethod
    def _backend(cls, attention: str) -> str:
        # Imported here because it needs torch, and `rltr recipe` should print the defaults without that delay.
        from rltr.runtime.kernels.names import BACKENDS

        if attention not in BACKENDS:
            raise ValueError(f"there is no backend {attention!r}; choose from {', '.join(BACKENDS)}")
        return attention

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: "str | list[int]") -> "str | list[int]":
        if isinstance(layers, list) and (not layers or layers != sorted(set(layers)) or layers[0] < 0):
            raise ValueError("must be at least one layer, none below 0, in ascending order, each once: e.g. [1, 3, 5]")
        return layers


class CostGroup(Group):
    """What a kept token costs."""

    kind: str = Field(
        "latency",
        description="the cost model: latency is measured on the device in use, flops are counted; installed packages "
        "may add others",
    )
    batch_size: int = Field(64, ge=1, le=LARGE, description="batch size at which latency is measured")
    table: Path | None = Field(
        None,
        description="latency.json of an earlier run, to train with the same measured prices; null measures them again, "
        "with slightly different results each time, so that a seed alone does not reproduce a run",
    )

    when_busy: Literal["refuse", "flops"] = Field(
        "refuse",
        description="what to do if repeats of the same measurement differ by more than half, or measured times do not "
        "add up to the time of whole passes, mostly because the machine is busy: refuse stops with an error, flops "
        "warns and uses counted FLOPs instead",
    )

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        # Imported here because it needs torch, and `rltr recipe` should print the defaults without that delay.
        from rltr.cost import COST_MODELS

        if kind not in COST_MODELS:
            raise ValueError(f"there is no cost model {kind!r}; choose from {', '.join(COST_MODELS)}")
        return kind

    @field_validator("table")
    @classmethod
    def _at_home(cls, table: Path | None) -> Path | None:
        return None if table is None else at_home(table)

    @model_validator(mode="after")
    def _table_of_latency(self) -> "CostGroup":
        if self.table is not None and self.kind != "latency":
            raise ValueError(f"table has measured times, but kind is {self.kind!r}; leave it out, or set cost.kind")
        return self


class LearnerGroup(Group):
    """How the policy learns."""

    rollouts: int = Field(
        64_000, ge=1, description="reduced passes of single inputs in the whole training; rounded up to batches"
    )
    batch: int = Field(256, ge=1, le=LARGE, description="rollouts per update, a multiple of group_size")
    group_size: int = Field(
        4,
        ge=2,
        description="rollouts of the same input at the same cost weight; the mean reward of the others is the baseline",
    )
    epochs: int = Field(4, ge=1, le=1000, description="passes over the rollouts of one update")
    learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's step size at the start")
    final_learning_rate: float = Field(
        0.1, ge=0, le=1, description="learning rate at the end, as a share of learning_rate; decreases linearly"
    )
    clip_range: float = Field(0.2, gt=0, lt=1, description="PPO's clip range of the probability ratio of each token")
    target_kl: float | None = Field(
        0.02, gt=0, description="mean KL per token (nats) that ends an update early; null for no limit"
    )
    entropy: float = Field(
        0.0, ge=0, le=1000, description="entropy bonus: reward per nat of entropy of a token's decision"
    )
    max_grad_norm: float = Field(0.5, gt=0, description="gradients are clipped to this norm")
    cost_weight: tuple[float, float] = Field(
        COST_WEIGHT,
        description="lowest and highest cost weight in training: the score that a dense pass of a typical input costs",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of the policy's initial weights, the order of inputs and all sampling"
    )
    checkpoint_every: int = Field(25, ge=1, description="updates between two checkpoints to resume from")

    @property
    def planned(self) -> int:
        """Rollouts in whole batches: ``rollouts``, rounded up."""
        return -(-self.rollouts // self.batch) * self.batch

    @field_validator("cost_weight")
    @classmethod
    def _low_to_high(cls, weights: tuple[float, float]) -> tuple[float, float]:
        low, high = weights
        if not 1e-9 <= low <= high <= 1e9:  # beyond this range, rewards overflow
            raise ValueError(f"must be two numbers from 1e-9 to 1e9, the lower first: e.g. {list(COST_WEIGHT)}")
        return weights

    @model_validator(mode="after")
    def _whole_groups(self) -> "LearnerGroup":
        if self.batch % self.group_size:
            fits = max(self.batch // self.group_size, 1) * self.group_size
            raise ValueError(
                f"batch {self.batch} is not a multiple of group_size {self.group_size}; use a multiple, e.g. {fits}"
            )
        if self.rollouts < self.batch:
            raise ValueError(f"rollouts {self.rollouts} are fewer than one batch of {self.batch}; increase rollouts")
        return self


class PolicyGroup(Group):
    """The policy network."""

    width: int = Field(32, ge=4, le=1024, description="neurons per hidden layer")
    keep: float = Field(
        0.85,
        gt=0,
        lt=1,
        description="probability that an untrained policy keeps a token, without the priors, if its row's tokens cost "
        "0.1 of reward until the next decision; it is lower if they cost more",
    )
    redundancy_prior: float = Field(
        4.0,
        ge=-1000,
        le=1000,
        description="how strongly an untrained policy prefers to remove near-duplicates; 0 for no prior; below "
        "0 it prefers to keep them",
    )
    attention_prior: float = Field(
        8.0,
        ge=-1000,
        le=1000,
        description="how strongly an untrained policy prefers to keep the tokens that the pooled token attends to; 0 "
        "for no prior; below 0 it prefers to remove them",
    )
    spread_prior: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="how strongly an untrained policy prefers to keep tokens that are evenly spread over the input; "
        "useful for long texts of which any part is enough; 0 for no prior",
    )
