"""Options of reading data, with their defaults, which recipes use, too."""

import math
from dataclasses import dataclass
from typing import Literal

from rltr.errors import RltrError

Pooling = Literal["mean", "cls"]
"""What an embedding is made of: the mean over all places that are not padding, or the first one."""
WITHOUT_LABELS = "learn without labels: data.labels=none"
"""The advice in messages if labels are missing."""
OR_WITHOUT = f", or {WITHOUT_LABELS}"
"""The same after other advice; zero-shot tasks need labels and do not offer it."""
STREAM_EXAMPLES = 10_000
"""Examples per split that are taken from an iterable by default."""


@dataclass(frozen=True)
class DataOptions:
    """How to read a data set. Every field has a default that fits the usual layout.

    Args:
        fractions: shares of train, validation and test, used only where the data is not split yet; sum 1.
        seed: decides who goes where then; any whole number from 0.
        text_column: column of a table, or key of a JSONL, that holds the text.
        label_column: column or key that holds the label: a class's name or number, or what the model's head asks for.
        image_column: column of a table of images that holds them.
        audio_column: the same of a table of sounds.
        train_split: what the split to train on is called in the data; None for ``train``.
        validation_split: the same for validation; None for ``validation``, ``val``, ``valid`` or ``dev``. Where there
            is none, it is cut from train, by ``fractions`` and ``seed``.
        test_split: the same for test; None for ``test``.
        subset: which configuration of a hub data set that has several; None for its only or default one.
        labels: ``read``, or ``none`` where there are none, or none is to be read: then the dense model's own decisions
            count as right, and texts, images and sounds are found as for embeddings. Data that are not split yet are
            divided at random then, and not within each class: train and evaluate with the same, or give splits.
        bad_inputs: ``refuse`` stops at an input that cannot be used, and names it; ``skip`` reads all of them first and
            leaves those out, with a warning that names them.
        stream_examples: take so many examples per split from the front of a source that streams. Iterables are read no
            further; of what ``datasets`` streams as many again are read, up to 1,000, to mix their order. None
            downloads a hub data set whole, and takes ``STREAM_EXAMPLES`` from iterables, which cannot do otherwise.
        max_tokens: texts are cut to this many tokens, special ones included; None for as many as the model takes.
        pooling: what an embedding is made of: ``mean`` over all places that are not padding, or ``cls``, the first one.
        goal: the name of a goal that another package adds (:data:`rltr.tasks.goals.chosen.GOALS`); ``auto`` takes what
            the model's head is for.
        template: the text that describes a class in zero-shot tasks, with ``{}`` for its name.

    Raises:
        RltrError: if the fractions are not three positive numbers that sum to 1, the seed is negative, a split has two
            uses, the template has no place for a name, or another option is none of its choices.
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
                f"{', '.join(named)}: train, validation and test must be three different splits, which share no example"
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
