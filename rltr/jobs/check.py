"""What ``rltr check`` does: a policy's folder, or a model, is tested on the machine where it will run."""

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
"""Inputs on which a reduced model is compared with the native one."""
SLACK = 0.05
"""Quality that may be lost beyond the calibrated loss, or at all without a calibration, before a check fails."""
MEASURED = 4
"""Cost weights that a policy without a calibration is measured at."""
log = logging.getLogger(__name__)


def run_check(policy_folder: Path, changes: Mapping[str, object] | None = None) -> bool:
    """Compare a model that keeps everything with the native one, and time the policy at its calibrated budgets.

    Args:
        policy_folder: the policy.
        changes: fields of its recipe that are different here, by dotted key: where model and data are, device, threads.
            Data that is not here, or that is on the hub and not named in ``changes``, is replaced by random inputs,
            which do for everything but quality.

    Returns:
        Whether the policy may be used here: keeping everything, the model answers as the native one; and on real data
        no setting loses surely more than the policy's calibration promised, or without a calibration, not every
        setting loses surely more than :data:`SLACK`. If not, why is logged.
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
        f"everything kept: largest difference in an answer {found.error:.1e} (rounding: up to {found.tolerance:.1e}); "
        f"after detaching: {'identical' if found.restored else 'different'}"
    )
    if not found.holds:
        log.info(
            "with everything kept, this model does not answer as the native one on this machine; do not use the policy "
            "here, and please report it with the versions of torch and transformers"
        )
        return False
    promised = {point.cost_weight: point for point in policy.calibration}
    weights = list(promised)[:: max(1, len(promised) // 4)] or _trained_weights(recipe)
    if not promised:
        log.info(
            f"this policy was exported without calibration: measured at cost weights that it was trained for"
            f"{'' if real else f', and no verdict on its {policy.quality_name}'}"
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
    """A few cost weights of the range that a policy was trained for, rising."""
    weights: list[float] = np.geomspace(*recipe.learner.cost_weight, MEASURED).tolist()
    return list(dict.fromkeys(weights))


def _print_point(point: Measurement, evaluation: Evaluation, promised: CalibrationPoint | None, real: bool) -> None:
    """One line: what a setting takes and keeps here, beside what its calibration says."""
    right = f", {evaluation.quality_name} {point.quality:.1%} (native {evaluation.dense_quality:.1%})" if real else ""
    slower = " - slower than no pruning" if point.slower else ""
    lost = "" if promised is None else f"; lost at most, by its calibration: {lost_at_most(promised.to_dict())}"
    told = "" if promised is None or promised.time is None else f" (calibrated: {promised.time:.2f})"
    log.info(f"cost weight {point.setting:.3g}: {point.latency:.2f} of the native time{told}{right}{lost}{slower}")


def _keeps_quality(evaluation: Evaluation) -> bool:
    """Whether a policy that promises nothing is of use at some setting; those that lose much are named.

    A high cost weight asks for few tokens, whatever that loses. So a policy fails if it surely ruins
    the model at every setting that was measured.
    """
    ruined = [point for point in evaluation.points if loses_surely(point.quality_change_interval, SLACK)]
    if not ruined:
        return True
    least = -100 * max(point.quality_change for point in ruined)
    loses = f"this policy loses {least:.1f} points of {evaluation.quality_name} or more on this data"
    if len(ruined) < len(evaluation.points):
        where = ", ".join(f"{point.setting:.3g}" for point in ruined)
        log.info(f"at cost weight {where} {loses}: run it at another one, and calibrate it first (rltr calibrate)")
        return True
    log.info(
        f"at every cost weight measured {loses}, surely more than {100 * SLACK:.0f}: this data is unlike what it was "
        "trained on, or the policy is damaged or another one. Train one for this data"
    )
    return False


def _keeps_promises(evaluation: Evaluation, promised: Mapping[float, CalibrationPoint]) -> bool:
    """Whether no setting surely loses more than its calibration promised; if one does, why is logged."""
    broken = [
        point for point in evaluation.points if breaks_promise(point.quality_change_interval, promised[point.setting])
    ]
    if not broken:
        return True
    worst = min(broken, key=lambda point: point.quality_change)
    calibrated = promised[worst.setting]
    log.info(
        f"at cost weight {worst.setting:.3g} this policy loses {-100 * worst.quality_change:.1f} points of "
        f"{evaluation.quality_name} on this data, surely more than the "
        f"{100 * (calibrated.dense_quality - calibrated.quality):.1f} that it was calibrated with: this data is unlike "
        f"what it was trained on, or the policy is damaged or another one. Train one for this data, or export this one "
        f"again from its run"
    )
    return False


def breaks_promise(change: Interval | None, promised: CalibrationPoint) -> bool:
    """Whether a setting surely loses more quality than its calibration promised.

    Surely, because even the better end of the interval of what is lost is worse than promised. What was promised is
    itself an estimate from a few hundred inputs, so :data:`SLACK` is granted, or the calibration's bound if it has one
    that is wider.

    Args:
        change: interval of the quality with fewer tokens minus the native one; None where there are too few inputs.
        promised: the calibration at the same cost weight.
    """
    return loses_surely(change, max(promised.dense_quality - promised.quality + SLACK, promised.drop_bound or 0.0))


def loses_surely(change: Interval | None, allowed: float) -> bool:
    """Whether the whole interval of a change of quality is a loss of more than ``allowed`` (0.05: five points)."""
    return change is not None and -change[1] > allowed


def run_model_check(
    source: str, tower: str | None = None, device: str = "auto", threads: int | None = None
) -> BackboneReport:
    """Prove that a model is exact with fewer tokens.

    Args:
        source: a model's folder, hub id, or ``embedded``; it is loaded as the class it was saved as.
        tower: the part that is reduced, for models of several parts.
        device: where it runs.
        threads: of the processor; None for torch's own choice.

    Returns:
        What was found; ``holds`` says whether the model is exact.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return check_backbone(load_as_saved(source, pick_device(device)), tower=tower)


def _examples_at_hand(recipe: Recipe, backbone: Backbone, policy: Policy, named: bool) -> tuple[Examples, bool]:
    """The validation split, or random inputs where the data is not at hand; and whether it is the former.

    Nobody waits for a download that they did not ask for: data on the hub is read if it was ``named``.
    """
    source = recipe.data.source
    if named or source == EMBEDDED or at_home(source).exists():
        return prepare_data(recipe, backbone.model).validation, True
    place = (
        f"{source!r} on the hub, is not loaded unasked" if is_hub_name(source) else f"{from_here(source)}, is not here"
    )
    log.info(
        f"the data it was trained on, {place}: checking on random inputs, of which the policy may keep more or less "
        f"than of yours: no verdict on its {policy.quality_name}; name data with --data to have one"
    )
    return random_examples(backbone, 2 * CHECKED, policy.network.config.grid, pooling=recipe.data.pooling), False
