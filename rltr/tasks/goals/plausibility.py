"""Check that the dense model's answers fit the labels, before anything is trained or measured.

Labels in a different order than in the model's training raise no error; the accuracy is just at chance level. The same
holds for a head that was never trained. Results for such a model would be worthless, so a warning names the cause.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest, ttest_1samp
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.system.device import move_inputs
from rltr.tasks.examples.base import Examples
from rltr.tasks.goals import Classification, Consistency, Goal, MultiLabel, Regression, TokenClassification, ZeroShot
from rltr.tasks.goals.goal import Answers, Labels
from rltr.tasks.goals.numbering import NAME_THEM
from rltr.tasks.goals.token_classes import UNLABELLED

ASKED = 128
"""Number of inputs that the dense model is checked on."""
LEVEL = 0.05
"""Significance level of the test whether the model is better than guessing."""
CERTAIN = 0.001
"""Significance level of the test whether another order of the classes fits better."""
log = logging.getLogger(__name__)

Numbers = NDArray[np.int64]
"""Class indices of inputs or of tokens: predictions, or labels."""


def say_implausible(model: PreTrainedModel, examples: Examples, split: str) -> None:
    """Run the dense model on some random examples, and warn if its answers do not fit; see :func:`find_implausible`.

    Batches with inputs that cannot be read are skipped here. The code that needs these inputs reports them.
    """
    sample, answers, labels = examples.at_most(ASKED), [], []
    was_training = model.training
    model.eval()
    try:
        for part in torch.arange(len(sample)).split(16):
            try:
                inputs = move_inputs(sample.batch(part), model.device, model.dtype)
            except RltrError:
                continue
            with torch.no_grad():
                answers.append(examples.goal.read(model(**inputs), inputs).float().cpu())
            labels.append(sample.labels[part])
    finally:
        model.train(was_training)
    if answers:
        warn_if_implausible(examples.goal, torch.cat(answers), torch.cat(labels), examples.classes, split)


def warn_if_implausible(goal: Goal, dense: Answers, labels: Labels, classes: Sequence[str], split: str) -> None:
    """Warn in one line if :func:`find_implausible` finds a problem in the answers to a ``split``."""
    if found := find_implausible(goal, dense, labels, classes):
        log.warning("of %s inputs, %s", split, found)


def find_implausible(goal: Goal, dense: Answers, labels: Labels, classes: Sequence[str]) -> str | None:
    """Describe what is wrong with a dense model's answers, the likely cause and the fix; None if they look right.

    Args:
        goal: the metric and head.
        dense: the dense model's answers.
        labels: the labels, in the form that the goal needs; empty for data without labels.
        classes: the names of the classes, by label.
    """
    if labels.numel() and torch.equal(goal.decide(dense), labels):
        return None
    if len(dense) > 9 and _is_constant(goal, dense):
        return (
            f"the whole model gives the same answer to all {len(dense)}; likely cause: a head that was never trained, "
            "or another model's processor or tokenizer. Look at its answers to a few inputs first"
        )
    if not labels.numel():
        return None
    if isinstance(goal, Regression):
        quality = goal.quality(dense, dense, labels).double().numpy()
        # The t-test is undefined if all values are the same.
        better = quality.mean() > 0 and (np.ptp(quality) == 0 or ttest_1samp(quality, 0).pvalue <= 2 * LEVEL)
        if better or len(quality) < 5:
            return None
        found, chance = f"a {goal.quality_name} of {quality.mean():.2f}", "always predicting their median (0)"
        return _by_chance(found, chance, "labels in another unit or of another column", "Correct the labels")
    if not isinstance(goal, Classification | MultiLabel | TokenClassification):
        return None
    said, true = _pairs(goal, dense, labels)
    right, count, guessed = int((said == true).sum()), len(true), max(goal.chance(classes), guessing(said, true))
    if not isinstance(goal, MultiLabel | ZeroShot) and (order := other_order(said, true, len(classes))):
        better = float(np.mean([order.get(int(own), own) == answer for own, answer in zip(true, said, strict=True)]))
        named = [(_name(own, classes), _name(theirs, classes)) for own, theirs in order.items()]
        shown = ", ".join(f"{own!r} is what it calls {theirs!r}" for own, theirs in named[:4])
        return (
            f"the whole model is right in {right / count:.1%}, and in {better:.1%} if {shown}"
            f"{', …' if len(named) > 4 else ''}: the labels are in another order than the model was trained with. "
            f"Renumber them, or {NAME_THEM}"
        )
    if not no_better(right, count, guessed):
        return None
    cause, cure = "labels in another order than the model was trained with", f"Renumber the labels, or {NAME_THEM}"
    if isinstance(goal, ZeroShot):
        cause, cure = "names that do not describe the classes", "Rename the classes, and see data.template"
    return _by_chance(f"{right} right of {count} ({right / count:.1%})", f"guessing ({guessed:.1%})", cause, cure)


def no_better(right: int, count: int, chance: float) -> bool:
    """Whether guessing could plausibly reach ``right`` of ``count``; False if even a perfect score would prove nothing.

    Args:
        right: number of correct answers.
        count: number of answers.
        chance: probability of a correct guess, 0 to 1.
    """
    if chance >= 1 or chance**count > LEVEL:
        return False
    return float(binomtest(right, count, chance, alternative="greater").pvalue) > LEVEL


def guessing(said: Numbers, true: Numbers) -> float:
    """Expected accuracy if the same predictions were shuffled among the inputs; high if one class is frequent."""
    most = int(max(said.max(), true.max())) + 1
    return float(np.bincount(said, minlength=most) @ np.bincount(true, minlength=most)) / len(true) ** 2


def other_order(said: Numbers, true: Numbers, classes: int) -> dict[int, int]:
    """Find a permutation of the classes with which the predictions are correct far more often.

    One half of the inputs proposes the permutation, and the other half tests it.

    Returns:
        For each class that changes, the class that the model predicts in its place; empty if no permutation helps.
    """
    shuffled = np.random.default_rng(0).permutation(len(true))
    propose, judge = shuffled[::2], shuffled[1::2]
    order = _assign(said[propose], true[propose], classes)
    renamed = order[true[judge]]
    before, after = true[judge] == said[judge], renamed == said[judge]
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    if gained == 0 or float(binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue) > CERTAIN:
        return {}
    if no_better(int(after.sum()), len(judge), max(1 / classes, guessing(said[judge], renamed))):
        return {}
    order = _assign(said, true, classes)
    return {own: int(order[own]) for own in np.unique(true).tolist() if order[own] != own}


def _assign(said: Numbers, true: Numbers, classes: int) -> Numbers:
    """The permutation of classes with the most correct predictions; classes without evidence stay where they are."""
    together = np.eye(classes) * 0.5
    np.add.at(together, (true, said), 1.0)
    order: Numbers = linear_sum_assignment(together, maximize=True)[1].astype(np.int64)
    return order


def _pairs(goal: Goal, dense: Answers, labels: Labels) -> tuple[Numbers, Numbers]:
    """Predictions and labels as flat arrays: of rows, of labelled tokens, or of every class of every row."""
    said, true = goal.decide(dense).flatten(), labels.flatten()
    counts = true != UNLABELLED if isinstance(goal, TokenClassification) else torch.ones_like(true, dtype=torch.bool)
    return said[counts].long().numpy(), true[counts].long().numpy()


def _is_constant(goal: Goal, dense: Answers) -> bool:
    decided, own = goal.decide(dense), goal.goal if isinstance(goal, Consistency) else goal
    if isinstance(own, TokenClassification):
        return len(decided[decided != UNLABELLED].unique()) == 1
    if isinstance(own, Classification | MultiLabel):
        return bool((decided == decided[:1]).all())
    return bool(torch.isclose(dense, dense[:1], rtol=1e-6, atol=0).all())


def _by_chance(found: str, chance: str, cause: str, cure: str) -> str:
    return (
        f"the whole model has {found}, no better than {chance}: a policy trained for it would be worthless. "
        f"Likely cause: {cause}; or the model was never trained for this. {cure}"
    )


def _name(number: int, classes: Sequence[str]) -> str:
    return classes[number] if number < len(classes) else str(number)
