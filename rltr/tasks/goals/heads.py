"""From what people write as labels to what a model's head is trained for: one class, several, or numbers."""

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
"""Between several classes, or several numbers, in one cell."""
MEASURED = 256
"""Inputs on which the spread of a dense model's answers is measured."""


@dataclass(frozen=True)
class Labelling:
    """How a data set's labels are read.

    Attributes:
        goal: what counts as right for this head.
        classes: the names of its classes, by label; none for numbers.
    """

    goal: Goal
    classes: list[str]
    _value: Callable[[str], int | list[float]]

    def __call__(self, written: Sequence[str]) -> Shaped[Tensor, "examples *label"]:
        """Labels as the goal wants them."""
        return torch.tensor([self._value(text) for text in written])


Reader: TypeAlias = Callable[[Iterable[str], Sequence[Way]], Labelling]
"""Finds out how labels are to be read; called with all of them, and the ways in which classes may be numbered."""


def label_reader(config: PreTrainedConfig) -> Reader:
    """What reads labels for a head; see :func:`read_labels`."""
    return lambda written, ways: read_labels(written, config, ways)


def read_labels(written: Iterable[str], config: PreTrainedConfig, ways: Sequence[Way] = WRITTEN) -> Labelling:
    """Find out what a head is for, and how the labels of all splits are to be read for it.

    A head with one output, or the problem type ``regression``, wants numbers; ``multi_label_classification`` any number
    of classes, apart by ``|``; every other head one class (see :func:`rltr.tasks.goals.numbering.number_classes`).

    Args:
        written: all labels, as they are written.
        config: of the model.
        ways: how classes are numbered.

    Raises:
        RltrError: if a label does not fit the head.
    """
    written, count = list(written), config.num_labels or 0
    if _predicts_numbers(config):
        if ways is NAMES:
            raise RltrError(
                "the model's head predicts numbers (problem type regression), and names of classes are none"
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
    """A copy of a configuration whose classes are told apart one at a time."""
    return type(config).from_dict({**config.to_dict(), "problem_type": None})


def goal_of(model: PreTrainedModel, longest: int, pooling: Pooling = "mean") -> Goal:
    """What a model's head is for, where there are no labels to tell.

    Args:
        model: with a head, or without one, which then embeds.
        longest: most tokens of an input.
        pooling: of an embedding.
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
    # One output and no problem type is what transformers itself trains as a regression.
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


def measure_spread(model: PreTrainedModel, examples: Examples) -> Goal:
    """The goal of ``examples``; for numbers with the spread of the model's answers to at most 256 of them.

    Without labels the answers give the deviation as well.

    Raises:
        RltrError: if the model answers the same to all of them.
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
            f"the model gives the same number to {len(chosen)} training inputs, or none at all: check that it is the "
            "fine-tuned model, and that the data is what it was trained for"
        )
    if not isinstance(goal, Consistency):
        return replace(own, spread=spread)
    return replace(goal, goal=replace(own, spread=spread, deviation=deviation_of(torch.cat(answers))))


def join_labels(labels: Iterable[object]) -> str:
    """Several classes, or several numbers, as they stand in one cell.

    Raises:
        RltrError: if one of them holds the separator.
    """
    parts = [str(label) for label in labels]
    if bad := next((part for part in parts if SEPARATOR in part), None):
        raise RltrError(
            f"the label {bad!r} holds {SEPARATOR!r}, which keeps several labels of one input apart; call this class "
            "otherwise, in the data and in the model's config"
        )
    return SEPARATOR.join(parts)


def _parts(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(SEPARATOR)) if part]


def _numbers(text: str, count: int) -> list[float]:
    try:
        # Python reads 1_000, which no one else takes for a number.
        numbers = [] if "_" in text else [float(part) for part in _parts(text)]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        wanted = "a number" if count == 1 else f"{count} numbers, apart by {SEPARATOR}"
        raise RltrError(
            f"the label {text!r} is not {wanted}, but the model's head predicts numbers (problem type regression); "
            "mend the label, or use a model with one output per class"
        )
    return numbers
