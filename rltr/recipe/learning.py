"""Fields about what is learned: where tokens leave, what they cost, the policy and the learner."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rltr.recipe.group import LARGE, Group
from rltr.system.files import at_home

COST_WEIGHT = (0.01, 8.0)
"""The cost weights that are trained for unless somebody says otherwise, in recipes and environments alike."""


class ReductionGroup(Group):
    """Where tokens may leave, and what becomes of them."""

    layers: Literal["auto"] | list[int] = Field(
        "auto",
        description="the layers (0 is the first) before which tokens may leave, in ascending order; "
        "auto takes every second one, beginning with layer 0, and none of the last two",
    )
    removal: Literal["merge", "drop"] = Field(
        "merge", description="merge averages a dropped token into its most similar kept one, drop loses it"
    )
    attention: str = Field(
        "auto",
        description="how attention between rows of uneven length is computed; auto takes the fastest for the device "
        "(auto, sdpa-per-row, sdpa-grouped, sdpa-padded, varlen, flash)",
    )

    @field_validator("attention")
    @classmethod
    def _backend(cls, attention: str) -> str:
        # Here, because kernels need torch, and the defaults, which are not validated, must be shown at once.
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
        description="latency is measured on the device in use, flops is counted; installed packages may add others",
    )
    batch_size: int = Field(64, ge=1, le=LARGE, description="inputs per batch that latency is measured at")
    table: Path | None = Field(
        None,
        description="latency.json of an earlier run, to train with the same measured prices; null measures anew, which "
        "gives slightly other prices each time: a seed alone does not repeat a run",
    )

    when_busy: Literal["refuse", "flops"] = Field(
        "refuse",
        description="what happens where repeats of the same work disagree by more than half, or measured times do not "
        "add up to what whole passes take, mostly because the machine is busy: refuse stops and says so, flops warns "
        "and counts instead",
    )

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        # Here, because cost models need torch, and the defaults, which are not validated, must be shown at once.
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
            raise ValueError(f"table holds measured times, but kind is {self.kind!r}; leave it out, or set cost.kind")
        return self


class LearnerGroup(Group):
    """How the policy learns."""

    rollouts: int = Field(
        64_000, ge=1, description="passes through the model in the whole training; rounded up to batches"
    )
    batch: int = Field(256, ge=1, le=LARGE, description="rollouts per update, a multiple of group_size")
    group_size: int = Field(
        4, ge=2, description="rollouts of the same input at the same cost weight; the others' mean is the baseline"
    )
    epochs: int = Field(4, ge=1, le=1000, description="passes over the rollouts of one update")
    learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's step size at the start")
    final_learning_rate: float = Field(0.1, ge=0, le=1, description="share of learning_rate left at the end, linearly")
    clip_range: float = Field(0.2, gt=0, lt=1, description="how far one token's probability ratio may leave 1")
    target_kl: float | None = Field(
        0.02, gt=0, description="mean KL per token (nats) that ends an update early; null for no limit"
    )
    entropy: float = Field(
        0.0, ge=0, le=1000, description="entropy bonus: reward per nat of entropy of a token's decision"
    )
    max_grad_norm: float = Field(0.5, gt=0, description="gradients are scaled down to this norm")
    cost_weight: tuple[float, float] = Field(
        COST_WEIGHT,
        description="lowest and highest cost weight trained for: score given up for a dense pass of a typical input",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="decides the policy's first weights, the inputs' order and every draw"
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
        if not 1e-9 <= low <= high <= 1e9:  # beyond, rewards are no numbers any more
            raise ValueError(f"must be two numbers from 1e-9 to 1e9, the lower first: e.g. {list(COST_WEIGHT)}")
        return weights

    @model_validator(mode="after")
    def _whole_groups(self) -> "LearnerGroup":
        if self.batch % self.group_size:
            fits = max(self.batch // self.group_size, 1) * self.group_size
            raise ValueError(
                f"batch {self.batch} does not hold whole groups of {self.group_size}; take a multiple, e.g. {fits}"
            )
        if self.rollouts < self.batch:
            raise ValueError(f"rollouts {self.rollouts} are fewer than one batch of {self.batch}; raise the first")
        return self


class PolicyGroup(Group):
    """The small network that decides."""

    width: int = Field(32, ge=4, le=1024, description="neurons per hidden layer")
    keep: float = Field(
        0.85,
        gt=0,
        lt=1,
        description="probability that an untrained policy keeps a token, before the priors and where its row's "
        "tokens cost a tenth of a unit of reward until the next decision; where they cost more, fewer stay",
    )
    redundancy_prior: float = Field(
        4.0,
        ge=0,
        le=1000,
        description="how strongly an untrained policy prefers to drop near-duplicates; 0 starts from nothing",
    )
    attention_prior: float = Field(
        8.0,
        ge=0,
        le=1000,
        description="how strongly an untrained policy prefers to keep what the token that the head reads attends to; "
        "0 starts from nothing",
    )
    spread_prior: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="how strongly an untrained policy keeps tokens spread evenly over the input; for long texts, which "
        "can be told from any part of them; 0 starts from nothing",
    )
