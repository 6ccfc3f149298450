"""The job of ``rltr calibrate``: measure a policy's prices and calibration again, on this machine and data."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rltr.cost import CostModel, LatencyCost
from rltr.cost.pricing import Pricing
from rltr.cost.rounds import CLOCK, Clock
from rltr.deploy.calibration import CalibrationPoint
from rltr.deploy.card import lost_at_most
from rltr.deploy.folder import Policy, load_policy, save_policy
from rltr.envs.episodes import longest_inputs, row_length
from rltr.errors import RltrError
from rltr.evaluate.sweep import calibrate
from rltr.jobs.preparation import prepare
from rltr.recipe import load_recipe, stored_recipe
from rltr.recipe.learning import CostGroup
from rltr.runtime.backbone import Backbone
from rltr.system.folders import POLICY_FILE, check_out
from rltr.system.lock import locked_policy
from rltr.tasks import Task
from rltr.train.cost_model import CostInputs, make_cost, spread
from rltr.train.run import CALIBRATED_ROWS, calibrated_weights
from rltr.train.trusted_prices import UnreliablePrices

log = logging.getLogger(__name__)


def run_calibrate(
    policy_folder: Path, out: Path, changes: Mapping[str, object] | None = None, clock: Clock = CLOCK
) -> Policy:
    """Calibrate a policy again, and write it with the new calibration to ``out``; its weights are not changed.

    Latency prices are measured again, and every cost weight is run on the validation split and compared with the native
    model. Earlier measurements on the test split are left out of the new policy card.

    Args:
        policy_folder: the policy.
        out: the new folder, which may be the same.
        changes: changed fields of its recipe by dotted key: model and data sources, device, threads.
        clock: replaced in tests.

    Raises:
        RltrError: if model and data are not found or do not fit, the machine is too busy to measure times, or ``out``
            has other content or is in use, such as by a training of its run.
    """
    check_out(out, marker=POLICY_FILE, replace=True)
    with locked_policy(out):  # locked before measuring, which takes a minute in which another process may start
        check_out(out, marker=POLICY_FILE, replace=True)
        found = _calibrated(policy_folder, changes, clock)
        save_policy(found, out)
    for point in found.calibration:
        log.info(_line(point, found.quality_name))
    return found


def _calibrated(policy_folder: Path, changes: Mapping[str, object] | None, clock: Clock) -> Policy:
    """The policy with prices and calibration measured on this machine."""
    policy = load_policy(policy_folder)
    trained = stored_recipe(policy.recipe, str(policy_folder))
    recipe = load_recipe(trained.model_dump(mode="json"), (), changes)
    backbone, task = prepare(recipe)
    policy.check_fits(backbone)
    cost = _cost_here(policy, backbone, task, clock)
    pricing = Pricing(cost, policy.layers, backbone.depth, policy.typical_tokens)
    network = policy.network.to(backbone.device)
    rows = cost.rows if isinstance(cost, LatencyCost) else CALIBRATED_ROWS
    weights = [point.cost_weight for point in policy.calibration] or calibrated_weights(recipe)
    log.info("calibrating at %d cost weights on %d validation inputs", len(weights), len(task.validation))
    table = calibrate(
        backbone,
        network,
        pricing,
        policy.removal,
        task.validation,
        weights,
        rows,
        recipe.evaluation.confidence,
        clock,
    )
    return replace(
        policy,
        cost=cost,
        calibration=table,
        facts={},
        quality_name=task.validation.goal.quality_name,
    )


def _cost_here(policy: Policy, backbone: Backbone, task: Task, clock: Clock) -> CostModel:
    """The policy's cost model for this machine: latency is measured for rows up to the longest of all splits.

    Other cost models do not depend on the machine, and are returned unchanged.
    """
    if not isinstance(policy.cost, LatencyCost):
        return policy.cost
    samples = [longest_inputs(split) for split in (task.train, task.validation, task.test)]
    longest = max(samples, key=lambda inputs: row_length(backbone, inputs))
    batch = task.validation.batch(spread(policy.cost.rows, len(task.validation)))
    priced = CostInputs(backbone, policy.network.config, policy.layers, policy.removal, longest, batch)
    try:
        return make_cost(priced, CostGroup(kind="latency", batch_size=policy.cost.rows), clock)
    except UnreliablePrices as error:
        raise RltrError(
            f"{error}. Nothing was written: stop other programs on this machine, or wait, and calibrate again"
        ) from error


def _line(point: CalibrationPoint, quality_name: str) -> str:
    share = f"{point.share:.2f} of the native time" if point.time is not None else f"{point.cost:.2f} of the dense cost"
    return (
        f"cost weight {point.cost_weight:.3g}: {share}, {quality_name} {point.quality:.1%} (native "
        f"{point.dense_quality:.1%}); lost at most: {lost_at_most(point.to_dict())}"
    )
