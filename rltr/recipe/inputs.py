"""Fields about the frozen model and its data."""

import math
import re
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, field_validator

from rltr.errors import RltrError
from rltr.recipe.data_options import DataOptions, Pooling
from rltr.recipe.group import Group

EMBEDDED = "embedded"
"""The name, in place of a path, of the model and the data that come with rltr."""


IN_MEMORY = "<in memory>"
"""The name, in place of a path, of a model or data that were given as Python objects: no file holds them."""


def refuse_in_memory(what: Literal["model", "data"], source: str) -> None:
    """Refuse to load what a training was given as a Python object.

    Raises:
        RltrError: with how to name it.
    """
    if source == IN_MEMORY:
        raise RltrError(
            f"the {what} of this training came from Python and was never in a file: name one with --{what}, or give it "
            f"to rltr.evaluate or rltr.train as {what}=..."
        )


def is_hub_name(source: str) -> bool:
    """Whether a source can only mean a data set of the hub: ``owner/name``, and nothing here is called that."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None and not Path(source).exists()


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
        cast(Any, DataOptions.labels),
        description="read takes the data's labels; none takes texts (a .txt with one in each line, or the text "
        "column), images or sounds (any folder) alone: the whole model's answers are right, and reports show "
        "consistency with them",
    )
    goal: str = Field(
        DataOptions.goal,
        min_length=1,
        description="what counts as right: auto is what the model's head is for; installed packages may add others, as "
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
        description="which configuration of a hub data set that has several; null for its default",
    )
    train_split: str | None = Field(
        DataOptions.train_split, min_length=1, description="what the source calls the split to train on; null for train"
    )
    validation_split: str | None = Field(
        DataOptions.validation_split,
        min_length=1,
        description="what it calls the one to calibrate with; null for validation, val, valid or dev. If there is "
        "none, it is cut from train, by fractions and split_seed",
    )
    test_split: str | None = Field(
        DataOptions.test_split,
        min_length=1,
        description="what it calls the one for the final measurement; null for test",
    )
    max_tokens: int | None = Field(
        DataOptions.max_tokens,
        ge=3,
        description="texts are cut to this many tokens, special ones included; null for as many as the model takes",
    )
    pooling: Pooling = Field(
        DataOptions.pooling,
        description="what an embedding is made of: the mean over all places that are not padding, or the first",
    )
    template: str = Field(
        DataOptions.template, pattern=r"\{\}", description="the text that describes a class (zero-shot), {} is its name"
    )
    fractions: tuple[float, float, float] = Field(
        DataOptions.fractions,
        description="shares for training, validation and test where the source is not split yet; they sum to 1",
    )
    split_seed: int = Field(
        DataOptions.seed, ge=0, description="decides which examples are held out, whatever the learner's seed is"
    )
    bad_inputs: Literal["refuse", "skip"] = Field(
        cast(Any, DataOptions.bad_inputs),
        description="what becomes of a damaged image or sound, an empty text or values that are not finite: refuse "
        "stops there and names it, skip looks through all inputs first and leaves such ones out",
    )
    stream_examples: int | None = Field(
        DataOptions.stream_examples,
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
