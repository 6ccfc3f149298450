"""One training from beginning to end: episodes, learner, logs, checkpoints, and the calibrated policy."""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from rltr import cost as costs
from rltr.cost import CostModel, LatencyCost
from rltr.cost.pricing import Pricing
from rltr.dense import DenseAnswers, DenseCache
from rltr.deploy.folder import Policy, describe
from rltr.envs import Episodes, TokenSelectionVecEnv, default_layers
from rltr.envs.episodes import longest_inputs, longest_row, row_length, typical_row
from rltr.errors import RltrError
from rltr.evaluate.sweep import calibrate
from rltr.policies.network import PolicyConfig
from rltr.recipe import Recipe, moved, refuse_changes, stored_recipe, with_absolute_paths
from rltr.recipe.learning import PolicyGroup
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.files import recover_folder
from rltr.system.folders import CHECKPOINT, LATENCY_FILE, LOGS
from rltr.tasks import Task
from rltr.train.checkpoint import restore_checkpoint, save_checkpoint
from rltr.train.checkpoint_facts import check_facts, read_facts
from rltr.train.cost_model import CostInputs, check_conditions, make_cost, spread
from rltr.train.origin import origin, refuse_others
from rltr.train.token_ppo import TokenPPO
from rltr.train.trackers import refuse_missing, training_logger
from rltr.train.trusted_prices import UnreliablePrices, advice_in_training
from rltr.train.watch import Bar, Checkpoints, Watch

CALIBRATED_WEIGHTS = 14
"""Number of cost weights at which a policy is calibrated, evenly spaced in their logarithm."""
GENTLER = 4
"""Calibration begins this factor below the trained range: a very small accepted loss may need a lower weight."""
CALIBRATED_ROWS = 64
"""Inputs per pass of a calibration without timing. With timing, the batch size of the latency table is used."""
log = logging.getLogger(__name__)


def train_policy(
    backbone: Backbone,
    task: Task,
    recipe: Recipe,
    out: Path,
    resume: bool = False,
    begin: Callable[[], None] = lambda: None,
    *,
    callbacks: Sequence[BaseCallback] = (),
    progress: bool = False,
) -> Policy:
    """Train a policy as a recipe says; write logs, checkpoints and measured prices to ``out``.

    Args:
        backbone: the frozen model.
        task: the data. Of the test split only the length of the inputs is used.
        recipe: all other settings.
        out: folder of the run; receives ``logs``, ``checkpoint`` and, for measured prices, ``latency.json``.
        resume: resume from the checkpoint in ``out`` if there is one.
        begin: called after all checks have passed, before the first file is written.
        callbacks: further stable-baselines3 callbacks, called after rltr's. If an ``_on_step`` returns False, training
            ends and the policy learned so far is calibrated.
        progress: show a progress bar on stdout.

    Raises:
        RltrError: if recipe, model and data do not fit together, the checkpoint belongs to another training, or
            training diverges.
    """
    refuse_missing(recipe.report_to)
    layers = default_layers(backbone.depth) if recipe.reduction.layers == "auto" else tuple(recipe.reduction.layers)
    removal, learner = recipe.reduction.removal, recipe.learner
    ReducedModel(backbone, KeepAll(), layers, removal)  # raises for impossible layers before prices are measured
    saved = _resumed(out / CHECKPOINT, recipe) if resume else None
    began = origin(backbone, task)
    if saved:
        refuse_others(saved["origin"], began, recipe)
    grid = longest_row(backbone, task.train)
    config = policy_config(backbone, grid, recipe.policy)
    kept_recipe = with_absolute_paths(recipe).model_dump(mode="json")
    # A latency table ends at the longest row it was measured for, and the test split will be evaluated with it.
    samples = [longest_inputs(split) for split in (task.train, task.validation, task.test)]
    sample = max(samples, key=lambda inputs: row_length(backbone, inputs))
    if saved:
        cost = costs.from_dict(saved["cost"])
    else:
        batch = task.train.batch(spread(recipe.cost.batch_size, len(task.train)))
        try:
            cost = make_cost(CostInputs(backbone, config, layers, removal, sample, batch), recipe.cost)
        except UnreliablePrices as error:
            raise RltrError(f"{error}. {advice_in_training(recipe.cost, error)}") from error
    check_conditions(cost, backbone)
    if not saved:
        _say_batch(cost, recipe)
    pricing = Pricing(cost, layers, backbone.depth, typical_row(backbone, task.train))
    episodes = Episodes(
        DenseAnswers(backbone, task.train, cache=_dense_cache(recipe.data.cache_megabytes)),
        pricing,
        learner.batch,
        learner.cost_weight,
        recipe.score,
        removal,
        learner.group_size,
    )
    with closing(TokenSelectionVecEnv(episodes)) as env:
        ppo = TokenPPO(
            env,
            config,
            learning_rate=falling(learner.learning_rate, learner.final_learning_rate),
            n_epochs=learner.epochs,
            clip_range=learner.clip_range,
            target_kl=learner.target_kl,
            ent_coef=learner.entropy,
            max_grad_norm=learner.max_grad_norm,
            seed=learner.seed,
        )
        if saved:
            restore_checkpoint(out / CHECKPOINT, ppo)
        begin()
        if isinstance(cost, LatencyCost):
            cost.save(out / LATENCY_FILE)

        def save() -> None:
            extra = {"cost": cost.to_dict(), "recipe": kept_recipe, "origin": began}
            save_checkpoint(out / CHECKPOINT, ppo, extra)

        folder = _next_log(out)
        opened = training_logger(folder, recipe.report_to, f"{out.name}-{folder.name}", kept_recipe)
        with closing(opened) as logger, _bars(progress) as bars:
            ppo.set_logger(logger)
            bar = Bar(bars, bars.add_task("rollouts", total=learner.planned))
            own = [Watch(task.train), Checkpoints(save, learner.checkpoint_every), bar]
            left = learner.planned * episodes.steps - ppo.num_timesteps
            if left > 0:
                ppo.learn(left, CallbackList([*own, *callbacks]), reset_num_timesteps=False)
    network = ppo.policy.network.eval().requires_grad_(False)
    rows = cost.rows if isinstance(cost, LatencyCost) else CALIBRATED_ROWS
    sure, weights = recipe.evaluation.confidence, calibrated_weights(recipe)
    table = calibrate(backbone, network, pricing, removal, task.validation, weights, rows, sure)
    about = {**describe(backbone), "name": recipe.model.source}
    name = task.validation.goal.quality_name
    typical = pricing.typical
    return Policy(network, layers, removal, cost, typical, about, table, kept_recipe, quality_name=name)


def calibrated_weights(recipe: Recipe) -> list[float]:
    """Cost weights at which a policy trained by this recipe is calibrated."""
    low, high = recipe.learner.cost_weight
    weights: list[float] = np.geomspace(low / GENTLER, high, CALIBRATED_WEIGHTS).tolist()
    return weights


def policy_config(backbone: Backbone, grid: int, wanted: PolicyGroup) -> PolicyConfig:
    """Shape of the policy for a recipe and a backbone whose rows have up to ``grid`` tokens."""
    return PolicyConfig(
        backbone_width=backbone.width,
        depth=backbone.depth,
        grid=grid,
        pooled=backbone.family.pooled,
        width=wanted.width,
        redundancy_prior=wanted.redundancy_prior,
        attention_prior=wanted.attention_prior,
        spread_prior=wanted.spread_prior,
        initial_logit=math.log(wanted.keep / (1 - wanted.keep)),
    )


def _bars(shown: bool) -> Progress:
    """The progress bar of rollouts."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=not shown)


def _dense_cache(megabytes: int) -> DenseCache | None:
    return DenseCache(megabytes * 2**20) if megabytes else None


def _say_batch(cost: CostModel, recipe: Recipe) -> None:
    """Warn if the latency table was measured at another batch size than the recipe names."""
    wanted = recipe.cost
    if wanted.table is not None and isinstance(cost, LatencyCost) and cost.rows != wanted.batch_size:
        log.warning(
            "cost.batch_size=%d is not used: %s was measured with batches of %d, its prices hold only for those",
            wanted.batch_size,
            wanted.table,
            cost.rows,
        )


def _resumed(checkpoint: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Cost model, recipe and origin in a checkpoint, checked against ``recipe``; None if there is no checkpoint yet."""
    recover_folder(checkpoint)
    if not checkpoint.exists():
        log.warning("there is no checkpoint in %s yet: training starts from the beginning", checkpoint.parent)
        return None
    facts = read_facts(checkpoint)
    saved: dict[str, Any] = facts["extra"]
    if not saved.keys() >= {"cost", "recipe", "origin"}:
        raise RltrError(
            f"the checkpoint in {checkpoint} lacks prices, recipe or fingerprints: likely another version of rltr "
            "wrote it. Resume with that version, or train in a new folder"
        )
    # The paths of model and data may have changed; refuse_others() compares their contents.
    refuse_changes(moved(stored_recipe(saved["recipe"], str(checkpoint)), recipe), recipe)
    check_facts(checkpoint, facts)
    return saved


def falling(start: float, final_share: float) -> Callable[[float], float]:
    """Learning rate schedule: linear from ``start`` to ``final_share * start`` as the remaining progress falls to 0.

    It stays there below 0, which stable-baselines3 passes if the last batch of rollouts exceeds the planned number.
    """
    return lambda remaining: start * (final_share + (1 - final_share) * max(remaining, 0.0))


def _next_log(out: Path) -> Path:
    """Next free log folder: each start gets its own, so that resuming never overwrites earlier logs."""
    return out / LOGS / str(max((number for number, _ in _starts(out)), default=-1) + 1)


def _starts(out: Path) -> list[tuple[int, Path]]:
    """Number and log folder of every start of a run, in order. Folders with other names are not rltr's."""
    found = (out / LOGS).glob("*")
    return sorted((int(folder.name), folder) for folder in found if folder.name.isascii() and folder.name.isdigit())


def read_progress(out: Path) -> list[dict[str, Any]]:
    """Read the logged scalars of all starts of a run.

    A start that resumed from an earlier checkpoint replaces the rows logged after that checkpoint.
    """
    from rltr.evaluate.results import read_history

    rows: list[dict[str, float]] = []
    for file in (folder / "progress.csv" for _, folder in _starts(out)):
        new = [row for row in read_history(file) if "rltr/rollouts" in row] if file.is_file() else []
        if new:
            rows = [row for row in rows if row["rltr/rollouts"] < new[0]["rltr/rollouts"]] + new
    return rows
