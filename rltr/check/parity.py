"""Does a reduced model that keeps everything answer like the native one, on this machine?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rltr.check.rounding import apart, as_its_own, in_single_precision, tolerance
from rltr.check.sample import random_inputs
from rltr.recipe.data_options import Pooling
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks import TensorExamples
from rltr.tasks.goals import Classification, Embedding, Goal, Regression
from rltr.tasks.goals.goal import ABSENT
from rltr.tasks.goals.heads import goal_of


@dataclass(frozen=True)
class Parity:
    """How far keeping everything is from the native model.

    Attributes:
        error: largest difference in an answer: of a logit, for most tasks. In half precision, to what the same weights
            answer in single precision.
        tolerance: how large it may be: rounding, see :func:`rltr.check.rounding.tolerance`.
        restored: whether the model answers bit for bit as before once it is detached.
    """

    error: float
    tolerance: float
    restored: bool

    @property
    def holds(self) -> bool:
        """Whether the model may be run reduced here."""
        # An error of nan does not hold, and where the native model overflows nothing does.
        return self.error <= self.tolerance < math.inf and self.restored


@torch.no_grad()
def parity(
    backbone: Backbone,
    inputs: Mapping[str, Tensor],
    layers: Sequence[int],
    removal: Removal = "merge",
    goal: Goal | None = None,
) -> Parity:
    """Run ``inputs`` natively, with decisions that keep everything, and natively again.

    A model in half precision is copied to single precision as well, which takes twice its memory on top.

    Args:
        backbone: the model.
        inputs: for it, on its device.
        layers: where to decide.
        removal: what would happen to dropped tokens.
        goal: which part of the output is compared; None for logits.
    """
    goal = goal or Classification()
    native = goal.read(backbone.model(**backbone.uncached(inputs)), inputs)
    exact = in_single_precision(backbone)
    wide = as_its_own(exact, inputs)
    expected = native if exact is backbone else goal.read(exact.model(**exact.uncached(wide)), wide)
    with backbone.attached():
        output, trace = ReducedModel(backbone, KeepAll(), layers, removal)(inputs)
    kept = goal.read(output, inputs)
    after = goal.read(backbone.model(**backbone.uncached(inputs)), inputs)
    there = expected != ABSENT
    allowed = tolerance(native[there], expected[there], backbone.dtype)
    return Parity(apart(kept, expected), allowed, torch.equal(native, after))


def random_examples(
    backbone: Backbone, count: int, longest: int, seed: int = 0, pooling: Pooling = "mean"
) -> TensorExamples:
    """Inputs of a model's shape, for when no data is at hand; their labels are the native model's own answers.

    Args:
        backbone: the model.
        count: how many.
        longest: tokens of the longest text, special ones included; images have the size that the model takes.
        seed: decides the pixels or tokens.
        pooling: of a model without a head, which embeds.
    """
    model = backbone.model
    inputs = {name: value.cpu() for name, value in random_inputs(backbone, count, longest, seed).items()}
    names = [f"random {i}" for i in range(count)]
    goal = goal_of(model, longest, pooling)
    with torch.no_grad():
        parts = [
            {name: value[part].to(backbone.device) for name, value in inputs.items()}
            for part in torch.arange(count).split(32)
        ]
        answers = torch.cat([goal.read(model(**part), part).float().cpu() for part in parts])
    count_of_classes = 0 if isinstance(goal, Embedding | Regression) else answers.shape[-1]
    classes = [str(label) for label in range(count_of_classes)]
    return TensorExamples(goal.decide(answers), names, classes, inputs, goal=goal)
