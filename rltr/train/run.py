"""One training from beginning to end: episodes, learner, logs, checkpoints, and the calibrated policy."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure

from rltr import cost as costs
from rltr import tokens as ragged
from rltr.backbone import Backbone
from rltr.cost import CostModel, FlopsCost, LatencyCost
from rltr.envs import DenseLogits, Episodes, TokenSelectionVecEnv, default_layers
from rltr.envs.episodes import longest_row
from rltr.export.calibration import calibrate
from rltr.export.folder import Policy, describe
from rltr.forward import Decision
from rltr.policies.network import PolicyConfig, TokenPolicy, decision_flops
from rltr.policies.observation import Observation
from rltr.pricing import Pricing
from rltr.recipe import Recipe
from rltr.tasks import Task
from rltr.train.checkpoint import read_facts, restore_checkpoint, save_checkpoint
from rltr.train.token_ppo import TokenPPO
from rltr.train.watch import Checkpoints, Watch

CHECKPOINT = "checkpoint"
LOGS = "logs"
CALIBRATED_WEIGHTS = 12
"""Cost weights at which a policy is calibrated, evenly spread over the logarithm of the trained range."""


def train_policy(backbone: Backbone, task: Task, recipe: Recipe, out: Path, resume: bool = False) -> Policy:
    """Train a policy by a recipe; logs and checkpoints go to ``out``.

    Args:
        backbone: the frozen model.
        task: what it learns on; of the test split only how long its inputs are is looked at.
        recipe: everything else.
        out: folder of the run; ``logs`` and ``checkpoint`` are made in it.
        resume: go on from the checkpoint in ``out``, if there is one yet.

    Raises:
        RltrError: if the checkpoint does not fit, or training diverges.
    """
    layers = default_layers(backbone.depth) if recipe.reduction.layers == "auto" else tuple(recipe.reduction.layers)
    dropped, learner = recipe.reduction.dropped, recipe.learner
    saved = read_facts(out / CHECKPOINT) if resume and (out / CHECKPOINT).exists() else None
    grid = longest_row(backbone, task.train)
    config = PolicyConfig(
        backbone.width,
        backbone.depth,
        grid,
        recipe.policy.width,
        recipe.policy.prior,
        math.log(recipe.policy.keep / (1 - recipe.policy.keep)),
    )
    # A latency table ends at the longest row it was measured for, and what is trained here is evaluated, too.
    longest = max(grid, *(longest_row(backbone, split) for split in (task.validation, task.test)))
    cost = costs.from_dict(saved["extra"]["cost"]) if saved else measure_cost(backbone, config, recipe, longest)
    if isinstance(cost, LatencyCost):
        cost.check(backbone)
    pricing = Pricing(cost, layers, backbone.depth)
    episodes = Episodes(
        DenseLogits(backbone, task.train),
        pricing,
        learner.batch,
        learner.cost_weight,
        recipe.score,
        dropped,
        learner.group_size,
    )
    env = TokenSelectionVecEnv(episodes)
    logger = configure(str(_next_log(out)), ["tensorboard", "csv"])
    try:
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
        ppo.set_logger(logger)
        if saved:
            restore_checkpoint(out / CHECKPOINT, ppo)

        def save() -> None:
            save_checkpoint(out / CHECKPOINT, ppo, {"cost": cost.to_dict()})

        callbacks = CallbackList([Watch(task.train), Checkpoints(save, learner.checkpoint_every)])
        left = learner.rollouts * episodes.steps - ppo.num_timesteps
        if left > 0:
            ppo.learn(left, callbacks, reset_num_timesteps=False, progress_bar=True)
    finally:
        logger.close()
        env.close()
    network = ppo.policy.network.eval().requires_grad_(False)
    low, high = learner.cost_weight
    weights = np.geomspace(low, high, CALIBRATED_WEIGHTS).tolist()
    table = calibrate(backbone, network, pricing, dropped, task.validation, weights)
    about = {**describe(backbone), "name": recipe.model.source}
    return Policy(network, layers, dropped, cost, about, table, recipe.model_dump(mode="json"))


def falling(start: float, final_share: float) -> Callable[[float], float]:
    """A learning rate that falls linearly from ``start`` to ``final_share`` of it, as progress goes from 1 to 0."""
    return lambda remaining: start * (final_share + (1 - final_share) * remaining)


def measure_cost(backbone: Backbone, config: PolicyConfig, recipe: Recipe, longest: int) -> CostModel:
    """The cost model a recipe asks for, for rows of up to ``longest`` tokens, the policy's own cost included."""
    if recipe.cost.kind == "flops":
        return FlopsCost.count(backbone.layers, *decision_flops(config))
    rows = recipe.cost.batch_size
    work = decision_work(backbone, TokenPolicy(config).to(backbone.device), rows)
    return LatencyCost.measure(backbone, longest, rows, work)


def decision_work(backbone: Backbone, network: TokenPolicy, rows: int) -> Callable[[int], object]:
    """Everything a decision does on ``rows`` rows of so many random tokens: policy, redundancy, merging, packing."""
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def decide(count: int) -> object:
        tokens = ragged.everything(rows, count, backbone.device)
        hidden = torch.randn(tokens.total, backbone.width, generator=generator).to(backbone.device, backbone.dtype)
        protected = tokens.slot < backbone.family.leading
        decision = Decision(0, 0, hidden, tokens, protected, tokens.count, {})
        ones = torch.ones(rows, device=backbone.device)
        network(Observation.of_decision(decision, ones, ones))
        kept = (torch.rand(tokens.total, generator=generator).to(backbone.device) < 0.5) | protected
        return ragged.merge(hidden, tokens, kept, *decision.redundancy.partners(kept))

    return decide


def _next_log(out: Path) -> Path:
    """A new folder for every start, so that going on never overwrites what was logged before."""
    return out / LOGS / str(len(list((out / LOGS).glob("*"))))


def read_progress(out: Path) -> list[dict[str, Any]]:
    """The scalars a run logged, over all its starts, those that a later start went back behind left out."""
    from rltr.evaluate.results import read_history

    rows: list[dict[str, float]] = []
    for file in sorted((out / LOGS).glob("*/progress.csv"), key=lambda file: int(file.parent.name)):
        new = [row for row in read_history(file) if "rltr/rollouts" in row]
        if new:
            rows = [row for row in rows if row["rltr/rollouts"] < new[0]["rltr/rollouts"]] + new
    return rows
