"""Parse labels as a model's head needs them: one class, several classes, or numbers."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Shaped
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from rltr.errors import RltrError
from rltr.recipe.data_options import Pooling
from rltr.system.device import move_inputs
from rltr.tasks.examples.base import Examples
from rltr.tasks.goals import Classification, Consistency, Embedding, Goal, MultiLabel, Regression, TokenClassification
from rltr.tasks.goals.numbering import NAMES, WRITTEN, Way, number_classes
from rltr.tasks.goals.regression import deviation_of, spread_of

SEPARATOR = "|"
"""Separates several classes, or several numbers, in one cell."""
MEASURED = 256
"""Number of inputs on which the standard deviation of a dense model's answers is measured."""


@dataclass(frozen=True)
class Labelling:
    """A parser of a data set's labels, with the goal and class names that go with them.

    Attributes:
        goal: the goal of this head.
        classes: the names of the head's classes, by label; empty for numbers.
    """

    goal: Goal
    classes: list[str]
    _value: Callable[[str], int | list[float]]

    def __call__(self, written: Sequence[str]) -> Shaped[Tensor, "examples *label"]:
        """Parse labels into the tensor that the goal needs."""
        return torch.tensor([self._value(text) for text in written])


LabelReader: TypeAlias = Callable[[Iterable[str], Sequence[Way]], Labelling]
"""Finds the parser for a data set's labels; called with all labels as texts, and the numberings to try for classes."""


def label_reader(config: PreTrainedConfig) -> LabelReader:
    """A ``LabelReader`` for a model's head; see :func:`read_labels`."""
    return lambda written, ways: read_labels(written, config, ways)


def read_labels(written: Iterable[str], config: PreTrainedConfig, ways: Sequence[Way] = WRITTEN) -> Labelling:
    """Determine the goal of a head from its config, and how to parse the labels of all splits for it.

    A head with one output, or with problem type ``regression``, needs numbers. ``multi_label_classification`` takes any
    number of classes, separated by ``|``. Every other head takes one class (see
    :func:`rltr.tasks.goals.numbering.number_classes`).

    Args:
        written: all labels, as texts.
        config: the model's config.
        ways: the numberings of classes to try.

    Raises:
        RltrError: if a label does not fit the head.
    """
    written, count = list(written), config.num_labels or 0
    if _predicts_numbers(config):
        if ways is NAMES:
            raise RltrError(
                "the model's head predicts numbers (problem type regression), but the labels are names of classes"
            )
        numbers = {text: _numbers(text, count) for text in dict.fromkeys(written)}
        deviation = deviation_of(torch.tensor([numbers[text] for text in written]))
        return Labelling(Regression(deviation), [], numbers.__getitem__)
    if config.problem_type == "multi_label_classification":
        names = (name for text in written for name in _parts(text))
        single = _one_at_a_time(config)
        number, classes = number_classes(names, single, ways)
        return Labelling(
            MultiLabel(),
            classes,
            lambda text: [float(i in {number[name] for name in _parts(text)}) for i in range(count)],
        )
    number, classes = number_classes(written, config, ways)
    return Labelling(Classification(), classes, number.__getitem__)


def _one_at_a_time(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of a multi-label config as single-label, so that each class of a label is numbered on its own."""
    return type(config).from_dict({**config.to_dict(), "problem_type": None})


def goal_of(model: PreTrainedModel, longest: int, pooling: Pooling = "mean") -> Goal:
    """Determine the goal of a model from its head, without labels.

    Args:
        model: a model with a head, or without one for embeddings.
        longest: largest number of tokens of an input.
        pooling: the pooling of an embedding.
    """
    config, name = model.config, type(model).__name__
    if "ForTokenClassification" in name:
        return TokenClassification(longest)
    if name.endswith("ModelWithProjection"):
        return Embedding(config.projection_dim, output="image_embeds" if "Vision" in name else "text_embeds")
    if "Classification" not in name:  # not as an ending: DeiT's distilled one is a ForImageClassificationWithTeacher
        return Embedding(config.hidden_size, pooling)
    if _predicts_numbers(config):
        return Regression()
    return MultiLabel() if config.problem_type == "multi_label_classification" else Classification()


def _predicts_numbers(config: PreTrainedConfig) -> bool:
    # transformers itself trains a head with one output and no problem type as a regression.
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


def measure_spread(model: PreTrainedModel, examples: Examples) -> Goal:
    """Return the goal of ``examples``; for a regression, with the standard deviation of the model's answers set.

    It is measured on at most 256 examples. Without labels, ``deviation`` is computed from the answers as well.

    Raises:
        RltrError: if the model gives the same answer to all of them.
    """
    goal = examples.goal
    own = goal.goal if isinstance(goal, Consistency) else goal
    if not isinstance(own, Regression):
        return goal
    chosen = torch.linspace(0, len(examples) - 1, min(len(examples), MEASURED)).round().long()
    answers = []
    with torch.no_grad():
        for part in chosen.split(32):
            inputs = move_inputs(examples.batch(part), model.device, model.dtype)
            answers.append(goal.read(model(**inputs), inputs).float().cpu())
    spread = spread_of(torch.cat(answers))
    if not 0 < spread < math.inf:
        raise RltrError(
            f"the model predicts the same number for {len(chosen)} training inputs, or one that is not finite: check "
            "that it is the fine-tuned model, and that it was trained for this data"
        )
    if not isinstance(goal, Consistency):
        return replace(own, spread=spread)
    return replace(goal, goal=replace(own, spread=spread, deviation=deviation_of(torch.cat(answers))))


def join_labels(labels: Iterable[object]) -> str:
    """Join several classes, or several numbers, into the text of one cell.

    Raises:
        RltrError: if one of them holds the separator.
    """
    parts = [str(label) for label in labels]
    if bad := next((part for part in parts if SEPARATOR in part), None):
        raise RltrError(
            f"the label {bad!r} contains {SEPARATOR!r}, which separates several labels of one input; rename this "
            "class, in the data and in the model's config"
        )
    return SEPARATOR.join(parts)


def _parts(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(SEPARATOR)) if part]


def _numbers(text: str, count: int) -> list[float]:
    try:
        # Python's float accepts 1_000, which other tools do not read as a number.
        numbers = [] if "_" in text else [float(part) for part in _parts(text)]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        wanted = "a number" if count == 1 else f"{count} numbers, separated by {SEPARATOR}"
        raise RltrError(
            f"the label {text!r} is not {wanted}, but the model's head predicts numbers (problem type regression); "
            "correct the label, or use a model with one output per class"
        )
    return numbers
