"""The fields of a recipe, each with what it means, its unit and what it may be."""

import math
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rltr.system.files import at_home

EMBEDDED = "embedded"
"""The name, in place of a path, of the model and the data that come with rltr."""
MOST = 10**12
"""What no whole number in a recipe may exceed: beyond, libraries end in errors of their own."""
LARGE = 2**20
"""Rows of a batch, at most."""
COST_WEIGHT = (0.01, 8.0)
"""The cost weights that are trained for unless somebody says otherwise, in recipes and environments alike."""


def is_hub_name(source: str) -> bool:
    """Whether a source can only mean a data set of the hub: ``owner/name``, and nothing here is called that."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None and not Path(source).exists()


class Group(BaseModel):
    """Some fields that belong together; unknown keys are refused, nothing changes once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        """Refuse what would be read as something else, or could not be written down or counted with later."""
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, bool):  # pydantic would read it as 0 or 1
                raise ValueError("must not be a truth value")
            if isinstance(part, int) and abs(part) > MOST:
                raise ValueError(f"must be at most {MOST:,}")
            if isinstance(part, bytes):
                raise ValueError("must be text, not bytes")
            if isinstance(part, str | Path) and any("\ud800" <= character <= "\udfff" for character in str(part)):
                raise ValueError("must be text that can be written as UTF-8; rename what is called that")
        return value


class ModelGroup(Group):
    """The frozen model that is made cheaper."""

    source: str = Field(EMBEDDED, min_length=1, description="'embedded', a folder with a saved model, or a hub id")
    tower: str | None = Field(
        None,
        min_length=1,
        description="the part that is reduced, for a model of several, such as vision_model; null for the whole, or "
        "what the family says",
    )


class DataGroup(Group):
    """The inputs to learn from and to measure on."""

    source: str = Field(
        EMBEDDED,
        min_length=1,
        description="'embedded'; a folder with one folder of images or sounds per class; a CSV, JSONL, Parquet, Arrow "
        "or .npz file, or a folder with one for each split; or owner/name on the hub; without labels also a .txt, or "
        "any folder of images or sounds",
    )
    kind: Literal["auto", "image", "text", "tokens", "audio", "zero-shot", "embedding"] = Field(
        "auto",
        description="images, texts or sounds with a label each, words with one each (tokens), images among described "
        "classes (zero-shot), or no labels (embedding); auto looks at the model's head",
    )
    labels: Literal["read", "none"] = Field(
        "read",
        description="read takes the data's labels; none takes texts (a .txt with one in each line, or the text "
        "column), images or sounds (any folder) alone: the whole model's answers are right, and reports show "
        "consistency with them",
    )
    text_column: str = Field("text", min_length=1, description="the column of a file or table with the text")
    label_column: str = Field("label", min_length=1, description="the column of a file or table with the label")
    image_column: str = Field("image", min_length=1, description="the column of a table with the image")
    audio_column: str = Field("audio", min_length=1, description="the column of a table with the sound")
    subset: str | None = Field(
        None, min_length=1, description="which configuration of a hub data set that has several; null for its default"
    )
    train_split: str | None = Field(
        None, min_length=1, description="what the source calls the split to train on; null for train"
    )
    validation_split: str | None = Field(
        None,
        min_length=1,
        description="what it calls the one to calibrate with; null for validation, val, valid or dev. If there is "
        "none, it is cut from train, by fractions and split_seed",
    )
    test_split: str | None = Field(
        None, min_length=1, description="what it calls the one for the final measurement; null for test"
    )
    max_tokens: int | None = Field(
        None,
        ge=3,
        description="texts are cut to this many tokens, special ones included; null for as many as the model takes",
    )
    pooling: Literal["mean", "cls"] = Field(
        "mean", description="what an embedding is made of: the mean over all places that are not padding, or the first"
    )
    template: str = Field(
        "a photo of a {}.", pattern=r"\{\}", description="the text that describes a class (zero-shot), {} is its name"
    )
    fractions: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1),
        description="shares for training, validation and test where the source is not split yet; they sum to 1",
    )
    split_seed: int = Field(0, ge=0, description="decides which examples are held out, whatever the learner's seed is")
    bad_inputs: Literal["refuse", "skip"] = Field(
        "refuse",
        description="what becomes of a damaged image or sound, an empty text or values that are not finite: refuse "
        "stops there and names it, skip looks through all inputs first and leaves such ones out",
    )
    stream_examples: int | None = Field(
        None,
        ge=1,
        description="read hub data sets, Parquet and Arrow only so far: so many examples of each split, held in memory "
        "(and up to 1,000 more, to mix their order); null takes all, from disk",
    )
    cache_megabytes: int = Field(
        1024,
        ge=0,
        description="most that the dense model's outputs may take on disk, where another run with the same model and "
        "data finds them: in RLTR_CACHE, or else ~/.cache/rltr; those used longest ago go first; 0 keeps none",
    )
    train_limit: int | None = Field(None, ge=1, description="train on at most this many examples; null for all")
    validation_limit: int | None = Field(
        512, ge=1, description="calibrate budgets with at most this many examples; null for all"
    )
    test_limit: int | None = Field(
        None, ge=2, description="at most this many examples for the final measurement; null for all"
    )

    @field_validator("fractions")
    @classmethod
    def _sum_to_one(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
            raise ValueError("must be three numbers above 0 that sum to 1: e.g. [0.8, 0.1, 0.1]")
        return fractions


class ReductionGroup(Group):
    """Where tokens may leave, and what becomes of them."""

    layers: Literal["auto"] | list[int] = Field(
        "auto",
        description="the layers (0 is the first) before which tokens may leave, in ascending order; "
        "auto takes every second one, beginning with layer 0, and none of the last two",
    )
    dropped: Literal["merge", "drop"] = Field(
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
        from rltr.runtime.kernels.backends import BACKENDS

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

    kind: Literal["latency", "flops"] = Field(
        "latency", description="latency is measured on the device in use, flops is counted"
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
        description="how strongly an untrained policy prefers to drop tokens with a twin; 0 starts from nothing",
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


class EvaluationGroup(Group):
    """What is measured at the end."""

    cost_weights: list[float] = Field(
        [0.001, 0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0],
        min_length=1,
        description="the policy is measured at each of these, all above 0",
    )
    keep_rates: list[float] = Field(
        [0.9, 0.8, 0.7, 0.6, 0.5], min_length=1, description="share kept per decision; baselines are measured at each"
    )
    methods: list[str] = Field(
        ["random", "norm", "cls_attention", "tome", "uniform", "redundancy"],
        description="the baselines to measure; `none` is always measured",
    )
    batch_size: int = Field(64, ge=1, le=LARGE, description="inputs per batch")
    examples: int | None = Field(None, ge=2, description="at most this many test examples; null for all")
    repeats: int = Field(1, ge=1, description="timings of each method, in alternation with the dense model")
    gallery: int = Field(12, ge=0, description="inputs shown with their dropped tokens in the report")
    confidence: float = Field(
        0.9,
        gt=0.5,
        lt=1,
        description="how sure `max_drop` is: at 0.9, of ten policies calibrated on data of their own at most one loses "
        "more than it was asked for; the surer, the more validation inputs it takes",
    )

    @field_validator("cost_weights")
    @classmethod
    def _above_zero(cls, weights: list[float]) -> list[float]:
        if min(weights) <= 0:
            raise ValueError("each must be above 0")
        if not all(1e-9 <= weight <= 1e9 for weight in weights):
            raise ValueError("each must be from 1e-9 to 1e9")
        return weights

    @field_validator("keep_rates")
    @classmethod
    def _rates(cls, rates: list[float]) -> list[float]:
        if not all(0 < rate <= 1 for rate in rates):
            raise ValueError("each must be above 0 and at most 1")
        return rates

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: list[str]) -> list[str]:
        # Here, because selectors need torch, and the defaults, which are not validated, must be shown at once.
        from rltr.selectors import BASELINES

        if unknown := [method for method in methods if method not in BASELINES]:
            raise ValueError(f"there is no selector {unknown[0]!r}; choose from {', '.join(BASELINES)}")
        return methods


class Recipe(Group):
    """Everything that decides how a run goes."""

    model: ModelGroup = Field(ModelGroup(), description="The frozen model that is made cheaper")
    data: DataGroup = Field(DataGroup(), description="The inputs to learn from and to measure on")
    reduction: ReductionGroup = Field(ReductionGroup(), description="Where tokens may leave, and what becomes of them")
    cost: CostGroup = Field(CostGroup(), description="What a kept token costs")
    score: Literal["quality", "accuracy", "fidelity", "both"] = Field(
        "both",
        description="what good means: right by the labels (quality; accuracy is another name for it, which for classes "
        "is what it is), the dense model's outputs, or both",
    )
    learner: LearnerGroup = Field(LearnerGroup(), description="How the policy learns")
    policy: PolicyGroup = Field(PolicyGroup(), description="The small network that decides")
    evaluation: EvaluationGroup = Field(EvaluationGroup(), description="What is measured at the end")
    threads: int | None = Field(None, ge=1, le=4096, description="processor threads; null for torch's own choice")
    device: str = Field(
        "auto", min_length=1, description="cpu, cuda, cuda:1 …; auto takes an accelerator if there is one"
    )
    out: Path = Field(Path("runs/rltr"), description="the folder that receives everything the run makes")

    @field_validator("out")
    @classmethod
    def _at_home(cls, out: Path) -> Path:
        return at_home(out)

    @model_validator(mode="before")
    @classmethod
    def _empty_groups(cls, values: object) -> object:
        """Read a group whose every line is commented out, which is null in YAML, as one with nothing changed."""
        if not isinstance(values, dict):
            return values
        return {key: {} if value is None and inner_group(cls, key) else value for key, value in values.items()}


def inner_group(group: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of the group called ``name`` in ``group``; None for a plain field and for what is not there."""
    field = group.model_fields.get(name)
    inner = field.annotation if field else None
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
