"""Check on this machine that a reduced model that keeps every token gives the native model's answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rltr.check.rounding import in_its_precision, in_single_precision, max_difference, tolerance
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
    """Difference between a reduced model that keeps every token and the native model.

    Attributes:
        error: largest absolute difference of an answer, for most tasks of a logit. A model in half precision is
            compared with the same weights in single precision.
        tolerance: largest error that rounding explains, see :func:`rltr.check.rounding.tolerance`.
        restored: whether the detached model gives bit for bit the answers from before.
    """

    error: float
    tolerance: float
    restored: bool

    @property
    def holds(self) -> bool:
        """Whether the model is exact on this machine."""
        # False for an error of NaN, and if the native model overflows, which makes the tolerance infinite or NaN.
        return self.error <= self.tolerance < math.inf and self.restored


@torch.no_grad()
def parity(
    backbone: Backbone,
    inputs: Mapping[str, Tensor],
    layers: Sequence[int],
    removal: Removal = "merge",
    goal: Goal | None = None,
) -> Parity:
    """Compare the native model with a reduced model that keeps every token, and with itself after detaching.

    A model in half precision is also copied to single precision, which takes twice its memory in addition.

    Args:
        backbone: the model.
        inputs: model inputs, on its device.
        layers: the decision layers.
        removal: mode in which the reduced model runs; no token is removed.
        goal: goal that reads the answers from the output; None compares logits.
    """
    goal = goal or Classification()
    native = goal.read(backbone.model(**backbone.uncached(inputs)), inputs)
    exact = in_single_precision(backbone)
    wide = in_its_precision(exact, inputs)
    expected = native if exact is backbone else goal.read(exact.model(**exact.uncached(wide)), wide)
    with backbone.attached():
        output, trace = ReducedModel(backbone, KeepAll(), layers, removal)(inputs)
    kept = goal.read(output, inputs)
    after = goal.read(backbone.model(**backbone.uncached(inputs)), inputs)
    present = expected != ABSENT
    allowed = tolerance(native[present], expected[present], backbone.dtype)
    return Parity(max_difference(kept, expected), allowed, torch.equal(native, after))


def random_examples(
    backbone: Backbone, count: int, longest: int, seed: int = 0, pooling: Pooling = "mean"
) -> TensorExamples:
    """Make random examples of the shape that a model takes; their labels are the native model's answers.

    Args:
        backbone: the model.
        count: number of examples.
        longest: tokens of the longest text, special ones included; images have the model's size.
        seed: seed of the random generator.
        pooling: pooling of the embedding, for a model without a head.
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
