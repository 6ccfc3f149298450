"""Whether what the whole model says fits the labels at all: if not, all that is trained and measured is worth nothing.

Labels in another order than the model was trained with give no error, only an accuracy by chance; nor does a head that
was never trained.
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
"""Inputs that the whole model is asked about before anything is trained."""
LEVEL = 0.05
"""Largest probability that guessing does as well, for a model to count as better."""
CERTAIN = 0.001
"""How likely noise may look like another order of classes."""
log = logging.getLogger(__name__)

Numbers = NDArray[np.int64]
"""Classes of inputs, or of tokens: answers, or labels."""


def say_implausible(model: PreTrainedModel, examples: Examples, split: str) -> None:
    """Ask the whole model about some examples, at random, and warn if its answers make no sense; see :func:`doubt`.

    Inputs that cannot be read are passed over here, with those beside them: who needs them will say so.
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
    """Warn in one line if :func:`doubt` finds something in answers to a ``split``."""
    if found := doubt(goal, dense, labels, classes):
        log.warning("of %s inputs, %s", split, found)


def doubt(goal: Goal, dense: Answers, labels: Labels, classes: Sequence[str]) -> str | None:
    """What is wrong with a dense model's answers, by the look of them, likely why, and what to do; None if nothing is.

    Args:
        goal: what counts as right.
        dense: the answers.
        labels: what is true, in the form that the goal asks for; empty where nothing is known.
        classes: the names of the classes, by label.
    """
    if labels.numel() and torch.equal(goal.decide(dense), labels):
        return None
    if len(dense) > 9 and _is_constant(goal, dense):
        return (
            f"the whole model gives all {len(dense)} the same answer, whatever they are; likely cause: a head that was "
            "never trained, or another model's processor or tokenizer. Look at its answers to a few inputs first"
        )
    if not labels.numel():
        return None
    if isinstance(goal, Regression):
        quality = goal.quality(dense, dense, labels).double().numpy()
        # Where all are the same there is nothing to test.
        better = quality.mean() > 0 and (np.ptp(quality) == 0 or ttest_1samp(quality, 0).pvalue <= 2 * LEVEL)
        if better or len(quality) < 5:
            return None
        found, chance = f"a {goal.quality_name} of {quality.mean():.2f}", "always saying their median (0)"
        return _by_chance(found, chance, "labels in another unit or of another column", "Mend the labels")
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
        cause, cure = "names that do not describe the classes", "Call them otherwise, and see data.template"
    return _by_chance(f"{right} right of {count} ({right / count:.1%})", f"guessing ({guessed:.1%})", cause, cure)


def no_better(right: int, count: int, chance: float) -> bool:
    """Whether so many right answers of so many could be guessed; False where even none wrong would be no proof."""
    if chance >= 1 or chance**count > LEVEL:
        return False
    return float(binomtest(right, count, chance, alternative="greater").pvalue) > LEVEL


def guessing(said: Numbers, true: Numbers) -> float:
    """Share of right answers if the same answers went to inputs at random: not little where one class is frequent."""
    most = int(max(said.max(), true.max())) + 1
    return float(np.bincount(said, minlength=most) @ np.bincount(true, minlength=most)) / len(true) ** 2


def other_order(said: Numbers, true: Numbers, classes: int) -> dict[int, int]:
    """Which classes to take for which others, so that the answers are right far more often; nothing, if none do.

    Half of the inputs propose an order, and the other half judge it.
    """
    turns = np.random.default_rng(0).permutation(len(true))
    propose, judge = turns[::2], turns[1::2]
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
    """The class that stands for each class, one for one, so that most answers are right; itself, if nothing tells."""
    together = np.eye(classes) * 0.5
    np.add.at(together, (true, said), 1.0)
    order: Numbers = linear_sum_assignment(together, maximize=True)[1].astype(np.int64)
    return order


def _pairs(goal: Goal, dense: Answers, labels: Labels) -> tuple[Numbers, Numbers]:
    """Answers and labels one by one: of rows, of tokens that have a label, or of every class of every row."""
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
        f"the whole model has {found}, no better than {chance}: a policy that is trained for it is worth nothing. "
        f"Likely cause: {cause}; or the model was never trained for this. {cure}"
    )


def _name(number: int, classes: Sequence[str]) -> str:
    return classes[number] if number < len(classes) else str(number)
