"""The recipe: its groups of fields, and the fields of the final evaluation."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from rltr.recipe.group import LARGE, Group
from rltr.recipe.inputs import DataGroup, ModelGroup
from rltr.recipe.learning import CostGroup, LearnerGroup, PolicyGroup, ReductionGroup
from rltr.system.files import at_home


class EvaluationGroup(Group):
    """What is measured at the end."""

    cost_weights: list[float] = Field(
        [0.001, 0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0],
        min_length=1,
        description="the cost weights at which the policy is measured, all above 0",
    )
    keep_rates: list[float] = Field(
        [0.9, 0.8, 0.7, 0.6, 0.5],
        min_length=1,
        description="the keep rates at which the baselines are measured: share of tokens kept per decision",
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
        description="confidence of `max_drop`: at 0.9, at most one in ten policies that are calibrated on independent "
        "data loses more than was allowed; a higher confidence needs more validation inputs",
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
        # Imported here because it needs torch, and `rltr recipe` should print the defaults without that delay.
        from rltr.selectors import BASELINES

        if unknown := [method for method in methods if method not in BASELINES]:
            raise ValueError(f"there is no selector {unknown[0]!r}; choose from {', '.join(BASELINES)}")
        return methods


class Recipe(Group):
    """All settings of a run. The page *Settings* and ``rltr recipe`` describe every field."""

    model: ModelGroup = Field(ModelGroup(), description="The frozen model that is made cheaper")
    data: DataGroup = Field(DataGroup(), description="The inputs to learn from and to measure on")
    reduction: ReductionGroup = Field(ReductionGroup(), description="The decision layers, and how tokens are removed")
    cost: CostGroup = Field(CostGroup(), description="What a kept token costs")
    score: Literal["quality", "accuracy", "fidelity", "both"] = Field(
        "both",
        description="what the reward is based on: quality compares with the labels (accuracy is an alias, which it is "
        "for classes), fidelity with the dense model's outputs, and both adds the two",
    )
    learner: LearnerGroup = Field(LearnerGroup(), description="How the policy learns")
    policy: PolicyGroup = Field(PolicyGroup(), description="The policy network")
    evaluation: EvaluationGroup = Field(EvaluationGroup(), description="What is measured at the end")
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        ["tensorboard"],
        description="where training curves are written in addition to progress.csv: tensorboard (in the run's folder), "
        "trackio, wandb; the last two need their package; [] for none",
    )
    threads: int | None = Field(None, ge=1, le=4096, description="processor threads; null for torch's own choice")
    device: str = Field(
        "auto", min_length=1, description="cpu, cuda, cuda:1 …; auto uses an accelerator if there is one"
    )
    out: Path = Field(Path("runs/rltr"), description="the folder for all files of the run")

    @field_validator("report_to", mode="before")
    @classmethod
    def _several(cls, names: object) -> object:
        return [names] if isinstance(names, str) else names  # transformers also accepts a single name

    @field_validator("report_to")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(names) != len(set(names)):
            raise ValueError("must name each once")
        return names

    @field_validator("out")
    @classmethod
    def _at_home(cls, out: Path) -> Path:
        return at_home(out)

    @model_validator(mode="before")
    @classmethod
    def _empty_groups(cls, values: object) -> object:
        """Read an empty group (null in YAML, such as one with all lines commented out) as one with all defaults."""
        if not isinstance(values, dict):
            return values
        return {key: {} if value is None and inner_group(cls, key) else value for key, value in values.items()}


def inner_group(group: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The pydantic model of the group ``name`` in ``group``; None for a plain field or an unknown name."""
    field = group.model_fields.get(name)
    inner = field.annotation if field else None
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
