"""Options for reading data. Recipes use the same defaults."""

import math
from dataclasses import dataclass
from typing import Literal

from rltr.errors import RltrError

Pooling = Literal["mean", "cls"]
"""How token states are pooled into an embedding: the mean over all positions that are not padding, or the first one."""
WITHOUT_LABELS = "learn without labels: data.labels=none"
"""The advice in error messages if labels are missing."""
OR_WITHOUT = f", or {WITHOUT_LABELS}"
"""The same, appended to other advice; not used for zero-shot tasks, which need labels."""
STREAM_EXAMPLES = 10_000
"""Default number of examples per split that are taken from an iterable."""


@dataclass(frozen=True)
class DataOptions:
    """How to read a data set. Every field has a default that fits the usual layout.

    Args:
        fractions: fractions of train, validation and test, which sum to 1; used only if the data is not split yet.
        seed: seed of the division into splits; a whole number from 0.
        text_column: the column of a table, or the key in a JSONL, with the text.
        label_column: the column or key with the label: a class name or index, or what else the model's head needs.
        image_column: the column of a table with the image.
        audio_column: the column of a table with the sound.
        train_split: the name of the training split in the data; None for ``train``.
        validation_split: the name of the validation split; None for ``validation``, ``val``, ``valid`` or ``dev``. If
            there is none, it is cut from train, by ``fractions`` and ``seed``.
        test_split: the name of the test split; None for ``test``.
        subset: the configuration of a hub data set that has several; None for its only or default one.
        labels: ``read`` the data's labels, or ``none``: no labels are read, and the dense model's own decisions are the
            reference. With ``none``, data that are not split yet are divided at random, not within each class, so train
            and evaluate with the same value, or give splits.
        bad_inputs: ``refuse`` raises at the first input that cannot be used, and names it; ``skip`` checks all inputs
            first and leaves those out, with a warning that names them.
        stream_examples: take this many examples per split from the start of a stream. Iterables are read no further.
            From a stream of ``datasets``, up to 1,000 more are read for a shuffle buffer. None downloads a hub data set
            in full, and takes ``STREAM_EXAMPLES`` from iterables.
        max_tokens: texts are truncated to this many tokens, special ones included; None for the model's limit.
        pooling: how token states are pooled into an embedding: ``mean`` over all positions that are not padding, or
            ``cls``, the first one.
        goal: the name of a goal that another package adds (:data:`rltr.tasks.goals.chosen.GOALS`); ``auto`` takes the
            goal that fits the model's head.
        template: the text that describes a class in zero-shot tasks, with ``{}`` in place of its name.

    Raises:
        RltrError: if the fractions are not three positive numbers that sum to 1, the seed is negative, two splits have
            the same name, the template has no ``{}``, or another option is out of its range.
    """

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    text_column: str = "text"
    label_column: str = "label"
    image_column: str = "image"
    audio_column: str = "audio"
    train_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    subset: str | None = None
    labels: str = "read"
    bad_inputs: str = "refuse"
    stream_examples: int | None = None
    max_tokens: int | None = None
    pooling: Pooling = "mean"
    goal: str = "auto"
    template: str = "a photo of a {}."

    def __post_init__(self) -> None:
        good = len(self.fractions) == 3 and all(part > 0 for part in self.fractions)
        if not good or not math.isclose(sum(self.fractions), 1.0, abs_tol=1e-6):
            raise RltrError(
                f"fractions must be three positive numbers for train, validation and test that sum to 1, "
                f"like 0.8, 0.1, 0.1; got {', '.join(map(str, self.fractions))}"
            )
        if self.seed < 0:
            raise RltrError(f"the seed of a split must be 0 or more, not {self.seed}")
        named = [name for name in self.split_names.values() if name is not None]
        if len(set(named)) != len(named):
            raise RltrError(
                f"{', '.join(named)}: train, validation and test must be three different splits, with no common example"
            )
        if self.labels not in ("read", "none"):
            raise RltrError(f"labels must be read or none, not {self.labels!r}")
        if self.bad_inputs not in ("refuse", "skip"):
            raise RltrError(f"bad_inputs must be refuse or skip, not {self.bad_inputs!r}")
        if self.stream_examples is not None and self.stream_examples < 1:
            raise RltrError(f"stream_examples must be 1 or more, not {self.stream_examples}")
        if self.max_tokens is not None and self.max_tokens < 3:
            raise RltrError(f"max_tokens must be 3 or more, for two special tokens and a word, not {self.max_tokens}")
        if "{}" not in self.template:
            raise RltrError(f"the template {self.template!r} has no {{}} for the name of the class")

    @property
    def split_names(self) -> dict[str, str | None]:
        """The name of each split in the data; None for the usual names."""
        return {"train": self.train_split, "validation": self.validation_split, "test": self.test_split}
