"""Recipe fields of the frozen model and its data."""

import math
import re
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, field_validator

from rltr.errors import RltrError
from rltr.recipe.data_options import DataOptions, Pooling
from rltr.recipe.group import Group

EMBEDDED = "embedded"
"""The ``source`` of the model and the data that come with rltr."""


IN_MEMORY = "<in memory>"
"""The ``source`` of a model or data that were passed as Python objects and cannot be loaded from a file."""


def refuse_in_memory(what: Literal["model", "data"], source: str) -> None:
    """Raise if a model or data were passed as Python objects, and so cannot be loaded by name.

    Raises:
        RltrError: the message says how to pass them again.
    """
    if source == IN_MEMORY:
        raise RltrError(
            f"the {what} of this training was passed from Python and is not in a file: name one with --{what}, or pass "
            f"it to rltr.evaluate or rltr.train as {what}=..."
        )


def is_hub_name(source: str) -> bool:
    """Whether a source must be a data set on the hub: it has the form ``owner/name``, and is not a local path."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None and not Path(source).exists()


class ModelGroup(Group):
    """The frozen model that is made cheaper."""

    source: str = Field(EMBEDDED, min_length=1, description="'embedded', a folder with a saved model, or a hub id")
    tower: str | None = Field(
        None,
        min_length=1,
        description="the part that is reduced, for a model with several parts, such as vision_model; null for the "
        "default of the model family, or the whole model",
    )


class DataGroup(Group):
    """The inputs to learn from and to measure on."""

    source: str = Field(
        EMBEDDED,
        min_length=1,
        description="'embedded'; a folder with one subfolder of images or sounds per class; a CSV, JSONL, Parquet, "
        "Arrow or .npz file, or a folder with one per split; or owner/name on the hub; without labels also a .txt, or "
        "any folder of images or sounds",
    )
    kind: Literal["auto", "image", "text", "tokens", "audio", "zero-shot", "embedding"] = Field(
        "auto",
        description="the kind of task: images, texts or sounds with labels, words with a label each (tokens), images "
        "with described classes (zero-shot), or embeddings without labels; auto infers it from the model's head",
    )
    labels: Literal["read", "none"] = Field(
        cast(Any, DataOptions.labels),
        description="read uses the data's labels; none uses only texts (a .txt with one per line, or the text column), "
        "images or sounds (any folder): the dense model's answers are the reference, and reports show the consistency "
        "with them",
    )
    goal: str = Field(
        DataOptions.goal,
        min_length=1,
        description="the metric: auto takes the one that fits the model's head; installed packages may add others, as "
        "entry points in rltr.goals",
    )
    text_column: str = Field(
        DataOptions.text_column, min_length=1, description="the column of a file or table with the text"
    )
    label_column: str = Field(
        DataOptions.label_column, min_length=1, description="the column of a file or table with the label"
    )
    image_column: str = Field(
        DataOptions.image_column, min_length=1, description="the column of a table with the image"
    )
    audio_column: str = Field(
        DataOptions.audio_column, min_length=1, description="the column of a table with the sound"
    )
    subset: str | None = Field(
        DataOptions.subset,
        min_length=1,
        description="the configuration of a hub data set that has several; null for its default",
    )
    train_split: str | None = Field(
        DataOptions.train_split, min_length=1, description="name of the training split in the source; null for train"
    )
    validation_split: str | None = Field(
        DataOptions.validation_split,
        min_length=1,
        description="name of the validation split, which calibration uses; null for validation, val, valid or dev. If "
        "there is none, it is cut from train, by fractions and split_seed",
    )
    test_split: str | None = Field(
        DataOptions.test_split,
        min_length=1,
        description="name of the test split, for the final measurement; null for test",
    )
    max_tokens: int | None = Field(
        DataOptions.max_tokens,
        ge=3,
        description="texts are truncated to this many tokens, special ones included; null for the model's limit",
    )
    pooling: Pooling = Field(
        DataOptions.pooling,
        description="how token states are pooled into an embedding: mean over all positions but padding, or the first",
    )
    template: str = Field(
        DataOptions.template, pattern=r"\{\}", description="the text that describes a class (zero-shot); {} is its name"
    )
    fractions: tuple[float, float, float] = Field(
        DataOptions.fractions,
        description="fractions of train, validation and test if the source is not split yet; they sum to 1",
    )
    split_seed: int = Field(
        DataOptions.seed, ge=0, description="seed of the division into splits, independent of the learner's seed"
    )
    bad_inputs: Literal["refuse", "skip"] = Field(
        cast(Any, DataOptions.bad_inputs),
        description="how to handle a damaged image or sound, an empty text or values that are not finite: refuse stops "
        "with its name; skip checks all inputs first and leaves such inputs out",
    )
    stream_examples: int | None = Field(
        DataOptions.stream_examples,
        ge=1,
        description="stream hub data sets, Parquet and Arrow, and keep only this many examples of each split in memory "
        "(up to 1,000 more are read to shuffle); null uses all, from disk",
    )
    cache_megabytes: int = Field(
        1024,
        ge=0,
        description="size limit of the cache of the dense model's outputs on disk, which runs with the same model and "
        "data share, in RLTR_CACHE or ~/.cache/rltr; the least recently used are deleted first; 0 for no cache",
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
