"""The job of ``rltr train``: train a policy by a recipe, and write it to the folder of the run."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rltr.deploy.folder import Policy, save_policy
from rltr.jobs.holding import held
from rltr.jobs.preparation import prepare
from rltr.jobs.run import Run
from rltr.recipe import Recipe, save_recipe, with_absolute_paths
from rltr.runtime.backbone import Backbone
from rltr.system.files import remove, remove_unfinished
from rltr.system.folders import (
    CHECKPOINT,
    DEMO_FILE,
    LATENCY_FILE,
    LOGS,
    POLICY_FOLDER,
    RECIPE_FILE,
    clear_out,
)
from rltr.tasks import Task
from rltr.train.run import train_policy

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def run_train(
    recipe: Recipe,
    resume: bool = False,
    *,
    model: "PreTrainedModel | None" = None,
    data: Any = None,
    callbacks: "Sequence[BaseCallback]" = (),
    progress: bool = False,
) -> Run:
    """Train a policy by a recipe, and write it to the subfolder ``policy`` of ``recipe.out``.

    Args:
        recipe: all settings.
        resume: resume from the checkpoint in ``recipe.out``.
        model: a model in memory, instead of the recipe's.
        data: data in memory, instead of the recipe's (see :func:`rltr.jobs.preparation.prepare`).
        callbacks: stable-baselines3 callbacks, in addition to rltr's own.
        progress: show a progress bar.

    Raises:
        RltrError: if recipe, model, data and folder do not fit each other, or the training diverges.
    """
    with held(recipe.out, resume=resume):
        backbone, task = prepare(recipe, model, data)
        policy = train_in(recipe, backbone, task, resume=resume, callbacks=callbacks, progress=progress)
    return Run(recipe.out, recipe, policy)


def train_in(
    recipe: Recipe,
    backbone: Backbone,
    task: Task,
    *,
    resume: bool = False,
    demo: bool = False,
    callbacks: "Sequence[BaseCallback]" = (),
    progress: bool = False,
) -> Policy:
    """Train in ``recipe.out``, which the caller has locked, and write the policy there.

    Args:
        recipe: all settings.
        backbone: the frozen model.
        task: its data.
        resume: resume from the checkpoint.
        demo: mark the folder as a demo, which the next demo may replace.
        callbacks: stable-baselines3 callbacks, in addition to rltr's own.
        progress: show a progress bar.
    """

    def begin() -> None:
        if resume:
            remove(recipe.out / DEMO_FILE)  # a demo that a user resumes must not be replaced by another demo
            for name in (CHECKPOINT, POLICY_FOLDER, LATENCY_FILE):
                remove_unfinished(recipe.out / name)  # left by a process that was killed
        else:
            clear_out(recipe.out)
        recipe.out.mkdir(parents=True, exist_ok=True)
        if demo:
            (recipe.out / DEMO_FILE).write_text("`rltr demo` made this folder, and may replace what it made.\n")
        save_recipe(with_absolute_paths(recipe), recipe.out / RECIPE_FILE)
        learner = recipe.learner
        rounded = (
            f" ({learner.rollouts} in whole batches of {learner.batch})" if learner.planned > learner.rollouts else ""
        )
        log.info(
            "training on %d inputs, %d rollouts%s; logs in %s",
            len(task.train),
            learner.planned,
            rounded,
            recipe.out / LOGS,
        )

    policy = train_policy(backbone, task, recipe, recipe.out, resume, begin, callbacks=callbacks, progress=progress)
    save_policy(policy, recipe.out / POLICY_FOLDER)
    return policy
