"""The job of ``rltr demo``: train, measure and export a policy for the embedded model and data."""

import logging
import shlex
from dataclasses import replace
from typing import Any

from rltr.deploy.folder import save_policy
from rltr.evaluate import Evaluation
from rltr.evaluate.results import highlighted
from rltr.jobs.evaluation import history_of, measure_points, report_evaluation
from rltr.jobs.holding import held
from rltr.jobs.preparation import prepare
from rltr.jobs.training import train_in
from rltr.recipe import Recipe
from rltr.system.folders import DEMO_FILE, POLICY_FOLDER

log = logging.getLogger(__name__)


def run_demo(recipe: Recipe, quick: bool = False, *, progress: bool = False) -> None:
    """Train, measure and export a policy, and print the next steps."""
    with held(recipe.out, marker=DEMO_FILE, replace=True):
        _demo(recipe, quick, progress)


def _demo(recipe: Recipe, quick: bool, progress: bool) -> None:
    backbone, task = prepare(recipe)
    policy = train_in(recipe, backbone, task, demo=True, progress=progress)
    evaluation = measure_points(recipe, backbone, task, policy, progress=progress)
    save_policy(replace(policy, facts=facts_of(evaluation)), recipe.out / POLICY_FOLDER)
    report_evaluation(recipe, backbone, task, policy, evaluation, history_of(recipe.out))
    found = highlighted(evaluation.points)
    if found is not None:
        log.info(
            "\nAt %.2f of the native time the policy has %.1f%% %s on the test images; the whole model %.1f%%.",
            found.latency,
            100 * found.quality,
            evaluation.quality_name,
            100 * evaluation.dense_quality,
        )
    if quick:
        log.info("A minute of training is too short: this run shows that everything works, not what can be learned.")
    log.info(
        "\nNext:\n"
        "  1. look at it:      open %s\n"
        "  2. check and time:  rltr check %s\n"
        "  3. your own model:  rltr train --model PATH_OR_HUB_ID --data IMAGE_FOLDER_OR_CSV --out runs/mine",
        shlex.quote(str(recipe.out / "report.html")),
        shlex.quote(str(recipe.out / POLICY_FOLDER)),
    )


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
