"""What the commands do, one function each: a recipe goes in, a folder comes out."""

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rltr.cost import FlopsCost
from rltr.deploy.folder import Policy, load_policy, save_policy
from rltr.errors import RltrError
from rltr.evaluate import Evaluation, baseline_points, evenly_spaced, measure, policy_points
from rltr.evaluate.results import highlighted
from rltr.jobs.preparation import prepare
from rltr.recipe import Recipe, save_recipe, with_absolute_paths
from rltr.report import Patches, write_report
from rltr.runtime.backbone import Backbone
from rltr.system.files import remove, remove_unfinished
from rltr.system.folders import (
    CHECKPOINT,
    DEMO_FILE,
    EVALUATION_FILE,
    LATENCY_FILE,
    LOGS,
    POLICY_FILE,
    POLICY_FOLDER,
    RECIPE_FILE,
    check_out,
    clear_out,
    is_run_policy,
)
from rltr.system.lock import locked, locked_policy
from rltr.tasks import Task
from rltr.train.run import read_progress, train_policy

console = Console()
log = logging.getLogger(__name__)


def run_train(recipe: Recipe, resume: bool = False) -> Path:
    """Train by a recipe; the policy is in the folder ``policy`` of the run.

    Returns:
        The run's folder.
    """
    with _held(recipe.out, resume=resume):
        backbone, task = prepare(recipe)
        _train(recipe, backbone, task, resume)
    return recipe.out


def run_evaluate(policy_folder: Path, recipe: Recipe) -> Evaluation:
    """Measure a policy beside the baselines; report, numbers and figures go to ``recipe.out``."""
    with _held(recipe.out, marker=EVALUATION_FILE, replace=True):
        return _evaluate(policy_folder, recipe)


def _evaluate(policy_folder: Path, recipe: Recipe) -> Evaluation:
    policy = load_policy(policy_folder)
    backbone, task = prepare(recipe)
    policy.check_fits(backbone)
    if policy.recipe.get("data", {}).get("labels", "read") != recipe.data.labels:
        log.warning(
            "data.labels is another one than in training: data that do not come in splits are then divided in another "
            "way, and some of these test inputs may have been trained on; give data in splits, or others"
        )
    evaluation = _measure(recipe, backbone, task, policy)
    clear_out(recipe.out)
    save_recipe(with_absolute_paths(recipe), recipe.out / EVALUATION_FILE)
    history = history_of(policy_folder.resolve().parent) if is_run_policy(policy_folder) else []
    _report(recipe, backbone, task, policy, evaluation, history)
    where = shlex.quote(str(recipe.out / "report.html"))
    console.print(f"measured; look at it: open {where}", highlight=False, markup=False)
    return evaluation


def run_demo(recipe: Recipe, quick: bool = False) -> None:
    """Train, measure and export in one go, and say what comes next."""
    with _held(recipe.out, marker=DEMO_FILE, replace=True):
        _demo(recipe, quick)


def _demo(recipe: Recipe, quick: bool) -> None:
    backbone, task = prepare(recipe)
    policy = _train(recipe, backbone, task, demo=True)
    evaluation = _measure(recipe, backbone, task, policy)
    save_policy(replace(policy, facts=facts_of(evaluation)), recipe.out / POLICY_FOLDER)
    _report(recipe, backbone, task, policy, evaluation, history_of(recipe.out))
    found = highlighted(evaluation.points)
    if found is not None:
        console.print(
            f"\nAt {found.latency:.2f} of the native time the policy has {found.quality:.1%} {evaluation.quality_name} "
            f"on the test images; the whole model {evaluation.dense_quality:.1%}."
        )
    if quick:
        console.print(
            "A minute of training is hardly any: this run shows that everything works, not what can be learned."
        )
    console.print(
        f"\nNext:\n"
        f"  1. look at it:      open {shlex.quote(str(recipe.out / 'report.html'))}\n"
        f"  2. check and time:  rltr check {shlex.quote(str(recipe.out / POLICY_FOLDER))}\n"
        f"  3. your own model:  rltr train --model PATH_OR_HUB_ID --data IMAGE_FOLDER_OR_CSV --out runs/mine",
        highlight=False,
        markup=False,  # a folder's name may have brackets
    )


def run_export(run: Path, out: Path) -> None:
    """Copy the policy of a finished run to a folder of its own."""
    if not (run / POLICY_FOLDER / POLICY_FILE).is_file():
        again = f"rltr train --resume --out {shlex.quote(str(run))}"
        raise RltrError(f"the training in {run} is not finished: `{again}` goes on with it")
    policy = load_policy(run / POLICY_FOLDER)
    with locked_policy(out):
        save_policy(policy, out)


@contextmanager
def _held(out: Path, **allowed: Any) -> Iterator[None]:
    """Hold a folder for results, if :func:`check_out` lets them in: before it is made, and still once it is held.

    Held from the beginning: loading and measuring take minutes, in which a second run must not begin in it.
    """
    check_out(out, **allowed)
    with locked(out):
        check_out(out, **allowed)
        yield


def history_of(run: Path) -> list[dict[str, float]]:
    """What a run logged, under short names, for the report."""
    shown = ("rltr/", "train/kl_per_token", "train/clip_fraction")
    return [
        {
            name.removeprefix("rltr/").removeprefix("train/"): value
            for name, value in row.items()
            if name.startswith(shown)
        }
        for row in read_progress(run)
    ]


def facts_of(evaluation: Evaluation) -> dict[str, Any]:
    """The measured curve of a policy, for its card."""
    rows = [
        {
            "cost weight": f"{point.setting:.3g}",
            evaluation.quality_name: f"{point.quality:.2%}",
            "time": f"{point.latency:.2f}×",
            "FLOPs": f"{point.flops:.2f}×",
        }
        for point in evaluation.points
        if point.method == "policy"
    ]
    here = evaluation.environment
    return {"table": rows, "environment": ", ".join(f"{name} {value}" for name, value in here.items())}


def _train(recipe: Recipe, backbone: Backbone, task: Task, resume: bool = False, demo: bool = False) -> Policy:
    def begin() -> None:
        if resume:
            remove(recipe.out / DEMO_FILE)  # a demo that somebody trains further is theirs: no demo may replace it
            for name in (CHECKPOINT, POLICY_FOLDER, LATENCY_FILE):
                remove_unfinished(recipe.out / name)  # what a kill left of them
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
        console.print(
            f"training on {len(task.train)} inputs, {learner.planned} rollouts{rounded}; logs in {recipe.out / LOGS}"
        )

    policy = train_policy(backbone, task, recipe, recipe.out, resume, begin)
    save_policy(policy, recipe.out / POLICY_FOLDER)
    return policy


def _measure(recipe: Recipe, backbone: Backbone, task: Task, policy: Policy) -> Evaluation:
    wanted = recipe.evaluation
    test = task.test.at_most(wanted.examples)
    points = policy_points(backbone, policy, wanted.cost_weights, untrained=evenly_spaced(wanted.cost_weights))
    points += baseline_points(backbone, wanted.methods, wanted.keep_rates, policy.layers)
    console.print(f"measuring {len(points)} operating points on {len(test)} test inputs")
    return measure(
        backbone,
        points,
        test,
        FlopsCost.count(backbone.layers),
        name=policy.backbone["name"],  # as it was called in training; the recipe has its whole path
        batch_size=wanted.batch_size,
        repeats=wanted.repeats,
        gallery=wanted.gallery,
    )


def _report(
    recipe: Recipe,
    backbone: Backbone,
    task: Task,
    policy: Policy,
    evaluation: Evaluation,
    history: list[dict[str, float]],
) -> None:
    test = task.test.at_most(recipe.evaluation.examples)
    shows_images = test.picture(0) is not None
    patches = Patches.of(backbone.config, policy.network.config.grid) if shows_images else None
    write_report(evaluation, recipe.out, examples=test, patches=patches, history=history)
