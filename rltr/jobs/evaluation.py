"""The job of ``rltr evaluate``: compare a policy with the baselines in one measurement, and write a report."""

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rltr.cost import FlopsCost
from rltr.deploy.folder import Policy, load_policy
from rltr.evaluate import Evaluation, baseline_points, evenly_spaced, measure, policy_points
from rltr.jobs.holding import held
from rltr.jobs.preparation import prepare
from rltr.recipe import Recipe, save_recipe, with_absolute_paths
from rltr.report import Patches, write_report
from rltr.runtime.backbone import Backbone
from rltr.system.folders import EVALUATION_FILE, clear_out, is_run_policy
from rltr.tasks import Task
from rltr.train.run import read_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def run_evaluate(
    policy: Path | Policy,
    recipe: Recipe,
    *,
    run: Path | None = None,
    model: "PreTrainedModel | None" = None,
    data: Any = None,
    progress: bool = False,
) -> Evaluation:
    """Compare a policy with the baselines, and write the report, numbers and figures to ``recipe.out``.

    Args:
        policy: a policy, or its folder.
        recipe: the model, the data and the settings of the evaluation.
        run: the folder of the training whose curve is shown; by default the run that contains the policy's folder.
        model: a model in memory, instead of the recipe's.
        data: data in memory, instead of the recipe's.
        progress: show a progress bar.

    Raises:
        RltrError: if policy, model and data do not fit each other, or the folder has other content.
    """
    with held(recipe.out, marker=EVALUATION_FILE, replace=True):
        if isinstance(policy, Path):
            run = policy.resolve().parent if is_run_policy(policy) else None
            policy = load_policy(policy)
        backbone, task, evaluation = measure_policy(policy, recipe, model=model, data=data, progress=progress)
        clear_out(recipe.out)
        save_recipe(with_absolute_paths(recipe), recipe.out / EVALUATION_FILE)
        report_evaluation(recipe, backbone, task, policy, evaluation, [] if run is None else history_of(run))
    log.info("measured; look at it: open %s", shlex.quote(str(recipe.out / "report.html")))
    return evaluation


def measure_policy(
    policy: Policy,
    recipe: Recipe,
    *,
    model: "PreTrainedModel | None" = None,
    data: Any = None,
    progress: bool = False,
) -> tuple[Backbone, Task, Evaluation]:
    """Measure a policy and the baselines on the test split.

    Args:
        policy: the policy.
        recipe: the model, the data and the settings of the evaluation.
        model: a model in memory, instead of the recipe's.
        data: data in memory, instead of the recipe's.
        progress: show a progress bar.

    Raises:
        RltrError: if policy, model and data do not fit each other.
    """
    backbone, task = prepare(recipe, model, data)
    policy.check_fits(backbone)
    if policy.recipe.get("data", {}).get("labels", "read") != recipe.data.labels:
        log.warning(
            "data.labels differs from that of the training: data without splits are then divided differently, and some "
            "test inputs may have been in the training split; use data with splits, or other data"
        )
    return backbone, task, measure_points(recipe, backbone, task, policy, progress=progress)


def measure_points(
    recipe: Recipe, backbone: Backbone, task: Task, policy: Policy, *, progress: bool = False
) -> Evaluation:
    """Measure all operating points of a recipe on the test split, with the native model for comparison."""
    wanted = recipe.evaluation
    test = task.test.at_most(wanted.examples)
    points = policy_points(backbone, policy, wanted.cost_weights, untrained=evenly_spaced(wanted.cost_weights))
    points += baseline_points(backbone, wanted.methods, wanted.keep_rates, policy.layers)
    log.info("measuring %d operating points on %d test inputs", len(points), len(test))
    return measure(
        backbone,
        points,
        test,
        FlopsCost.count(backbone.layers),
        name=policy.backbone["name"],  # the model's name in training; the recipe has its absolute path
        batch_size=wanted.batch_size,
        repeats=wanted.repeats,
        gallery=wanted.gallery,
        progress=progress,
    )


def report_evaluation(
    recipe: Recipe,
    backbone: Backbone,
    task: Task,
    policy: Policy,
    evaluation: Evaluation,
    history: list[dict[str, float]],
) -> None:
    """Write the report, with a gallery of pictures if the inputs are images."""
    test = task.test.at_most(recipe.evaluation.examples)
    shows_images = test.picture(0) is not None
    patches = Patches.of(backbone.config, policy.network.config.grid) if shows_images else None
    write_report(evaluation, recipe.out, examples=test, patches=patches, history=history)


def history_of(run: Path) -> list[dict[str, float]]:
    """The log of a run for the report, with shortened column names."""
    shown = ("rltr/", "train/kl_per_token", "train/clip_fraction")
    return [
        {
            name.removeprefix("rltr/").removeprefix("train/"): value
            for name, value in row.items()
            if name.startswith(shown)
        }
        for row in read_progress(run)
    ]
