"""The job of ``rltr probe``: measure what a model can do without on given data, before any training."""

import json
from pathlib import Path

from rltr.cost import FlopsCost
from rltr.dense import DenseAnswers
from rltr.envs.episodes import longest_row
from rltr.jobs.preparation import prepare
from rltr.policies.network import PolicyConfig
from rltr.probe import Probe, Trials, probe
from rltr.recipe import Recipe
from rltr.system.files import atomic_write

INPUTS = 192
"""Default number of training inputs in the sample."""


def run_probe(recipe: Recipe, inputs: int = INPUTS, out: Path | None = None) -> Probe:
    """Probe the model of a recipe on a sample of its training data.

    Costs are FLOPs, decisions included, so that the result does not depend on the machine's load. The loss is that of
    fidelity, which needs no labels.

    Args:
        recipe: model, data, device, and the learner's seed, which draws the sample; other settings are not used.
        inputs: number of training inputs in the sample, at least 2.
        out: a JSON file for the result; None writes nothing.

    Raises:
        RltrError: if model and data cannot be read or do not fit each other, or the model's FLOPs cannot be counted.
    """
    backbone, task = prepare(recipe)
    config = PolicyConfig(backbone.width, backbone.depth, longest_row(backbone, task.train), backbone.family.pooled)
    cost = FlopsCost.for_training(backbone, config)
    found = probe(Trials(DenseAnswers(backbone, task.train), cost, inputs=inputs, seed=recipe.learner.seed))
    if out is not None:
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    return found
