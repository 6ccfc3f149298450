"""The recipe: its groups of fields, and what is measured in the end."""

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
    """Everything that decides how a run goes. The page *Settings* describes every field, as ``rltr recipe`` does."""

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
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        ["tensorboard"],
        description="where training curves go beside progress.csv: tensorboard (in the run's folder), trackio, wandb; "
        "the last two need their package; [] for none",
    )
    threads: int | None = Field(None, ge=1, le=4096, description="processor threads; null for torch's own choice")
    device: str = Field(
        "auto", min_length=1, description="cpu, cuda, cuda:1 …; auto takes an accelerator if there is one"
    )
    out: Path = Field(Path("runs/rltr"), description="the folder that receives everything the run makes")

    @field_validator("report_to", mode="before")
    @classmethod
    def _several(cls, names: object) -> object:
        return [names] if isinstance(names, str) else names  # as transformers takes one by its name

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
        """Read a group whose every line is commented out, which is null in YAML, as one with nothing changed."""
        if not isinstance(values, dict):
            return values
        return {key: {} if value is None and inner_group(cls, key) else value for key, value in values.items()}


def inner_group(group: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of the group called ``name`` in ``group``; None for a plain field and for what is not there."""
    field = group.model_fields.get(name)
    inner = field.annotation if field else None
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
