"""What the commands do, one function each: a recipe goes in, a folder comes out."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rltr.backbone import Backbone
from rltr.cost import FlopsCost, LatencyCost
from rltr.device import pick_device
from rltr.embedded import load_task as load_embedded_task
from rltr.errors import RltrError
from rltr.evaluate import Evaluation, Patches, baseline_points, measure, policy_points, write_report
from rltr.evaluate.results import highlighted
from rltr.export.folder import Policy, load_policy, save_policy
from rltr.files import RECIPE_FILE
from rltr.loading import load_model
from rltr.recipe import EMBEDDED, Recipe, save_recipe
from rltr.reduction import Reduction
from rltr.selectors import KeepAll
from rltr.tasks import DataOptions, Task, load_task
from rltr.train.run import read_progress, train_policy

POLICY_FOLDER = "policy"
console = Console()
log = logging.getLogger(__name__)


def run_train(recipe: Recipe, resume: bool = False) -> Path:
    """Train by a recipe; the policy is in the folder ``policy`` of the run.

    Returns:
        The run's folder.
    """
    backbone, task = prepare(recipe)
    _train(recipe, backbone, task, resume)
    return recipe.out


def run_evaluate(policy_folder: Path, recipe: Recipe) -> Evaluation:
    """Measure a policy beside the baselines; report, numbers and figures go to ``recipe.out``."""
    policy = load_policy(policy_folder)
    backbone, task = prepare(recipe)
    policy.check_fits(backbone)
    recipe.out.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, recipe.out / RECIPE_FILE)
    return _evaluate(recipe, backbone, task, policy, history_of(policy_folder.parent))


def run_demo(recipe: Recipe, quick: bool = False) -> None:
    """Train, measure and export in one go, and say what comes next."""
    backbone, task = prepare(recipe)
    policy = _train(recipe, backbone, task)
    evaluation = _evaluate(recipe, backbone, task, policy, history_of(recipe.out))
    save_policy(policy, recipe.out / POLICY_FOLDER, facts_of(evaluation))
    found = highlighted(evaluation.points)
    if found is not None:
        console.print(
            f"\nAt {found.latency:.2f} of the native time the policy is right on {found.accuracy:.1%} of the test "
            f"images; the whole model on {evaluation.dense_accuracy:.1%}."
        )
    if quick:
        console.print(
            "A minute of training is hardly any: this run shows that everything works, not what can be learned."
        )
    console.print(
        f"\nNext:\n"
        f"  1. look at it:      open {recipe.out / 'report.html'}\n"
        f"  2. check and time:  rltr check {recipe.out / POLICY_FOLDER}\n"
        f"  3. your own model:  rltr train --model PATH_OR_HUB_ID --data IMAGE_FOLDER_OR_CSV --out runs/mine",
        highlight=False,
    )


def run_export(run: Path, out: Path) -> None:
    """Copy the policy of a finished run to a folder of its own."""
    if not (run / POLICY_FOLDER).is_dir():
        raise RltrError(f"the training in {run} is not finished: `rltr train --resume --out {run}` goes on with it")
    save_policy(load_policy(run / POLICY_FOLDER), out)


def run_check(policy_folder: Path, source: str | None = None) -> None:
    """Compare a model that keeps everything with the native one, and time the policy at its calibrated budgets."""
    policy = load_policy(policy_folder)
    trained = Recipe.model_validate(policy.recipe)
    recipe = trained.model_copy(
        update={"model": trained.model.model_copy(update={"source": source or trained.model.source})}
    )
    backbone, task = prepare(recipe)
    policy.check_fits(backbone)
    inputs = {
        name: value.to(backbone.device)
        for name, value in task.validation.batch(range(min(64, len(task.validation)))).items()
    }
    with torch.no_grad():
        native = backbone.model(**inputs).logits
        with backbone.attached():
            kept, _ = Reduction(backbone, KeepAll(), policy.layers, policy.dropped)(inputs)
        after = backbone.model(**inputs).logits
    error = float((kept["logits"] - native).abs().max())
    console.print(f"everything kept: largest difference of a logit {error:.1e}; after detaching: ", end="")
    console.print("identical" if torch.equal(native, after) else "different, please report this")
    weights = [point.cost_weight for point in policy.calibration[:: max(1, len(policy.calibration) // 4)]]
    evaluation = measure(
        backbone,
        policy_points(backbone, policy, weights),
        task.validation,
        FlopsCost.count(backbone.layers),
        latency=_table(policy),
        name=recipe.model.source,
        gallery=0,
        batch_size=recipe.evaluation.batch_size,
    )
    for point in evaluation.points:
        console.print(
            f"cost weight {point.setting:.3g}: {point.latency:.2f} of the native time, accuracy {point.accuracy:.1%} "
            f"(native {evaluation.dense_accuracy:.1%}){' - slower than no pruning' if point.slower else ''}"
        )


def prepare(recipe: Recipe) -> tuple[Backbone, Task]:
    """The frozen model and the data a recipe names."""
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    model = load_model(recipe.model.source, device=pick_device(recipe.device))
    backbone, data = Backbone(model), recipe.data
    if data.source == EMBEDDED:
        task = load_embedded_task()
    else:
        options = DataOptions(data.fractions, data.split_seed, data.text_column, data.label_column)
        kind = None if data.kind == "auto" else data.kind
        task = load_task(model, Path(data.source).expanduser(), kind=kind, options=options)
    return backbone, task.at_most(data.train_limit, data.validation_limit, data.test_limit)


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


def facts_of(evaluation: Evaluation) -> Mapping[str, Any]:
    """The measured curve of a policy, for its card."""
    rows = [
        {
            "cost weight": f"{point.setting:.3g}",
            "accuracy": f"{point.accuracy:.2%}",
            "time": f"{point.latency:.2f}×",
            "FLOPs": f"{point.flops:.2f}×",
        }
        for point in evaluation.points
        if point.method == "policy"
    ]
    here = evaluation.environment
    return {"table": rows, "environment": ", ".join(f"{name} {value}" for name, value in here.items())}


def _train(recipe: Recipe, backbone: Backbone, task: Task, resume: bool = False) -> Policy:
    recipe.out.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, recipe.out / RECIPE_FILE)
    console.print(
        f"training on {len(task.train)} inputs, {recipe.learner.rollouts} rollouts; logs in {recipe.out / 'logs'}"
    )
    policy = train_policy(backbone, task, recipe, recipe.out, resume)
    save_policy(policy, recipe.out / POLICY_FOLDER)
    return policy


def _table(policy: Policy) -> LatencyCost | None:
    return policy.cost if isinstance(policy.cost, LatencyCost) else None


def _evaluate(
    recipe: Recipe, backbone: Backbone, task: Task, policy: Policy, history: list[dict[str, float]]
) -> Evaluation:
    wanted = recipe.evaluation
    test = task.test.at_most(wanted.examples)
    points = policy_points(backbone, policy, wanted.cost_weights)
    points += baseline_points(backbone, wanted.methods, wanted.keep_rates, policy.layers)
    console.print(f"measuring {len(points)} operating points on {len(test)} test inputs")
    evaluation = measure(
        backbone,
        points,
        test,
        FlopsCost.count(backbone.layers),
        latency=_table(policy),
        name=recipe.model.source,
        batch_size=wanted.batch_size,
        repeats=wanted.repeats,
        gallery=wanted.gallery,
    )
    patches = Patches.of(backbone.config, policy.network.config.grid) if task.kind == "image" else None
    write_report(evaluation, recipe.out, examples=test, patches=patches, history=history)
    return evaluation
