"""The job of ``rltr check``: test a policy or a model on the machine where it will run."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from rltr.check.parity import parity, random_examples
from rltr.check.user_models import BackboneReport, check_backbone
from rltr.cost import FlopsCost
from rltr.deploy.calibration import CalibrationPoint
from rltr.deploy.card import lost_at_most
from rltr.deploy.folder import Policy, load_policy
from rltr.evaluate import Evaluation, measure, policy_points
from rltr.evaluate.points import Measurement
from rltr.evaluate.statistics import Interval
from rltr.jobs.preparation import prepare_data, prepare_model
from rltr.recipe import EMBEDDED, Recipe, is_hub_name, load_recipe, stored_recipe
from rltr.runtime.backbone import Backbone
from rltr.system.device import move_inputs, pick_device
from rltr.system.files import at_home, from_here
from rltr.tasks import Examples
from rltr.tasks.models import load_as_saved

CHECKED = 64
"""Number of inputs on which a reduced model is compared with the native one."""
SLACK = 0.05
"""Tolerated loss of quality in excess of the calibrated loss, or in total for a policy without calibration."""
MEASURED = 4
"""Number of cost weights at which a policy without calibration is measured."""
log = logging.getLogger(__name__)


def run_check(policy_folder: Path, changes: Mapping[str, object] | None = None) -> bool:
    """Compare a model that keeps everything with the native one, and time the policy at its calibrated budgets.

    Args:
        policy_folder: the policy.
        changes: changed fields of its recipe by dotted key: model and data sources, device, threads. Data that is
            missing, or that is on the hub and not named in ``changes``, is replaced by random inputs, for which quality
            is not checked.

    Returns:
        Whether the policy may be used here. Keeping everything, the model's outputs must equal the native ones. On real
        data, no setting may lose significantly more quality than in the calibration; without a calibration, at least
        one setting must not lose significantly more than :data:`SLACK`. The reason of a failure is logged.
    """
    policy = load_policy(policy_folder)
    trained = stored_recipe(policy.recipe, str(policy_folder))
    recipe = load_recipe(trained.model_dump(mode="json"), (), changes)
    backbone = prepare_model(recipe)
    policy.check_fits(backbone)
    examples, real = _examples_at_hand(recipe, backbone, policy, "data.source" in (changes or {}))
    batch = examples.batch(range(min(CHECKED, len(examples))))
    inputs = move_inputs(batch, backbone.device, backbone.dtype)
    found = parity(backbone, inputs, policy.layers, policy.removal, examples.goal)
    log.info(
        f"everything kept: largest difference in an output {found.error:.1e} (rounding: up to {found.tolerance:.1e}); "
        f"after detaching: {'identical' if found.restored else 'different'}"
    )
    if not found.holds:
        log.info(
            "with everything kept, this model's outputs differ from the native model's on this machine; do not use the "
            "policy here, and please report it with the versions of torch and transformers"
        )
        return False
    promised = {point.cost_weight: point for point in policy.calibration}
    weights = list(promised)[:: max(1, len(promised) // 4)] or _trained_weights(recipe)
    if not promised:
        log.info(
            f"this policy was exported without calibration: it is measured at cost weights of its training"
            f"{'' if real else f', and its {policy.quality_name} is not checked'}"
        )
    evaluation = measure(
        backbone,
        policy_points(backbone, policy, weights),
        examples,
        FlopsCost.count(backbone.layers),
        name=recipe.model.source,
        gallery=0,
        batch_size=recipe.evaluation.batch_size,
        split="validation" if real else "random",
    )
    for point in evaluation.points:
        _print_point(point, evaluation, promised.get(point.setting), real)
    if not real:
        return True
    return _keeps_promises(evaluation, promised) if promised else _keeps_quality(evaluation)


def _trained_weights(recipe: Recipe) -> list[float]:
    """A few cost weights from the range of a policy's training, in ascending order."""
    weights: list[float] = np.geomspace(*recipe.learner.cost_weight, MEASURED).tolist()
    return list(dict.fromkeys(weights))


def _print_point(point: Measurement, evaluation: Evaluation, promised: CalibrationPoint | None, real: bool) -> None:
    """Log one line: time and quality of a setting on this machine, with those of its calibration."""
    right = f", {evaluation.quality_name} {point.quality:.1%} (native {evaluation.dense_quality:.1%})" if real else ""
    slower = " - slower than no pruning" if point.slower else ""
    lost = "" if promised is None else f"; lost at most, by its calibration: {lost_at_most(promised.to_dict())}"
    told = "" if promised is None or promised.time is None else f" (calibrated: {promised.time:.2f})"
    log.info(f"cost weight {point.setting:.3g}: {point.latency:.2f} of the native time{told}{right}{lost}{slower}")


def _keeps_quality(evaluation: Evaluation) -> bool:
    """Whether a policy without calibration is usable at some setting; settings that lose too much are logged.

    A high cost weight keeps few tokens, even if that loses much quality. So the check fails only if the policy loses
    significantly more than :data:`SLACK` at every setting.
    """
    ruined = [point for point in evaluation.points if loses_surely(point.quality_change_interval, SLACK)]
    if not ruined:
        return True
    least = -100 * max(point.quality_change for point in ruined)
    loses = f"this policy loses {least:.1f} points of {evaluation.quality_name} or more on this data"
    if len(ruined) < len(evaluation.points):
        where = ", ".join(f"{point.setting:.3g}" for point in ruined)
        log.info(f"at cost weight {where} {loses}: use another cost weight, and calibrate it first (rltr calibrate)")
        return True
    log.info(
        f"at every cost weight measured {loses}, significantly more than {100 * SLACK:.0f}: this data differs from its "
        "training data, or the policy is damaged or for another task. Train one for this data"
    )
    return False


def _keeps_promises(evaluation: Evaluation, promised: Mapping[float, CalibrationPoint]) -> bool:
    """Whether no setting loses significantly more quality than in its calibration; a failure is logged."""
    broken = [
        point for point in evaluation.points if breaks_promise(point.quality_change_interval, promised[point.setting])
    ]
    if not broken:
        return True
    worst = min(broken, key=lambda point: point.quality_change)
    calibrated = promised[worst.setting]
    log.info(
        f"at cost weight {worst.setting:.3g} this policy loses {-100 * worst.quality_change:.1f} points of "
        f"{evaluation.quality_name} on this data, significantly more than the "
        f"{100 * (calibrated.dense_quality - calibrated.quality):.1f} of its calibration: this data differs from its "
        f"training data, or the policy is damaged or for another task. Train one for this data, or export this one "
        f"again from its run"
    )
    return False


def breaks_promise(change: Interval | None, promised: CalibrationPoint) -> bool:
    """Whether a setting loses significantly more quality than in its calibration.

    Significantly means that the whole confidence interval of the loss is above the allowed loss. The calibrated loss is
    itself an estimate from a few hundred inputs, so the allowed loss is larger by :data:`SLACK`, or is the
    calibration's upper bound if that is larger still.

    Args:
        change: confidence interval of the quality with fewer tokens minus the native quality; None if there are too
            few inputs.
        promised: the calibration at the same cost weight.
    """
    return loses_surely(change, max(promised.dense_quality - promised.quality + SLACK, promised.drop_bound or 0.0))


def loses_surely(change: Interval | None, allowed: float) -> bool:
    """Whether the whole interval of a change in quality is a loss of more than ``allowed`` (0.05: five points)."""
    return change is not None and -change[1] > allowed


def run_model_check(
    source: str, tower: str | None = None, device: str = "auto", threads: int | None = None
) -> BackboneReport:
    """Check that a model is exact with fewer tokens.

    Args:
        source: a model's folder, hub id, or ``embedded``; it is loaded as the class it was saved as.
        tower: the part that is reduced, for models with several parts.
        device: the device to run on.
        threads: number of CPU threads; None for torch's default.

    Returns:
        The report; ``holds`` says whether the model is exact.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return check_backbone(load_as_saved(source, pick_device(device)), tower=tower)


def _examples_at_hand(recipe: Recipe, backbone: Backbone, policy: Policy, named: bool) -> tuple[Examples, bool]:
    """The validation split, or random inputs if the data is not available; and whether the data is real.

    To avoid unwanted downloads, data on the hub is read only if it was ``named`` explicitly.
    """
    source = recipe.data.source
    if named or source == EMBEDDED or at_home(source).exists():
        return prepare_data(recipe, backbone.model).validation, True
    place = (
        f"{source!r} on the hub, is loaded only if named" if is_hub_name(source) else f"{from_here(source)}, is missing"
    )
    log.info(
        f"the data it was trained on, {place}: checking on random inputs, of which the policy may keep more or fewer "
        f"tokens than of yours; its {policy.quality_name} is not checked: name data with --data for that"
    )
    return random_examples(backbone, 2 * CHECKED, policy.network.config.grid, pooling=recipe.data.pooling), False
