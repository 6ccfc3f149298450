"""Compare stock stable-baselines3 PPO with the policy of a finished run, on the same environment and rollouts.

Model, training data, decision layers, prices, score and range of cost weights are those of the run.
`PPO("MultiInputPolicy")` has its default settings, except for the rollouts per update, which are the run's. Each of its
rollouts has a different input, because only TokenPPO uses groups. Both policies are then measured in one sweep, with
random choice for comparison.
"""

import time
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from benchmarks.results import begin, console, finish, options
from rltr.cost import FlopsCost
from rltr.cost.pricing import Pricing
from rltr.dense import DenseAnswers
from rltr.deploy import load_policy
from rltr.envs import Episodes, TokenSelectionVecEnv
from rltr.evaluate import OperatingPoint, baseline_points, measure, policy_points, write_json
from rltr.jobs.preparation import prepare
from rltr.policies.network import decision_flops
from rltr.policies.observation import Observation
from rltr.recipe import Recipe
from rltr.runtime.decision import Choice, Decision
from rltr.selectors import Selector
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.folders import POLICY_FOLDER


class StockChoice(Selector):
    """Keeps the tokens that a stock policy chooses deterministically, from the environment's observation.

    Args:
        policy: a policy of stable-baselines3, for the environment's observation space.
        pricing: the environment's prices.
        cost_weight: reward per dense forward pass.
    """

    def __init__(self, policy: ActorCriticPolicy, pricing: Pricing, cost_weight: float) -> None:
        self.policy = policy
        self.pricing = pricing
        self.cost_weight = cost_weight
        self._spent = torch.zeros(0)

    def __call__(self, decision: Decision) -> Choice:
        """Which tokens to keep."""
        count, begun = decision.tokens.count, decision.begun
        if decision.index == 0:
            self._spent = self.pricing.before_first(begun) / self.pricing.typical_cost
        else:
            paid = self.pricing.until_next(decision.index - 1, count)
            self._spent = self._spent + paid / self.pricing.typical_cost
        price = self.cost_weight * self.pricing.per_token(decision.index, count)
        shown: dict[str, Tensor] = Observation.of_decision(decision, price, count / begun).to_grid()
        shown["cost_weight"] = torch.full_like(price, self.cost_weight)[:, None]
        shown["spent"] = self._spent[:, None]
        with torch.no_grad():
            keep = self.policy._predict(shown, deterministic=True)
        return Choice(keep.bool()[decision.tokens.row, decision.tokens.position])


def decision_cost(policy: ActorCriticPolicy, grid: int, ours: tuple[float, float]) -> tuple[int, int]:
    """FLOPs of a decision per token and per pair of tokens.

    The stock network runs once per row, and its FLOPs are divided among the row's tokens. The FLOPs per pair are those
    of rltr's policy, ``ours``.
    """
    actor = [policy.mlp_extractor.policy_net, policy.action_net]
    return 2 * sum(p.numel() for part in actor for p in part.parameters()) // grid, int(ours[1])


def main() -> None:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run of `rltr train` or `demo`")
    parser.add_argument("--rollouts", type=int, help="rollouts to train on (default: the run's)")
    parser.add_argument(
        "--keep-rates", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5], help="keep rates of random choice"
    )
    parser.add_argument("--examples", type=int, help="largest number of test images")
    args = begin(parser)
    policy = load_policy(args.run / POLICY_FOLDER)
    recipe = Recipe.model_validate(policy.recipe)
    learner = recipe.learner
    args.rollouts = args.rollouts or learner.rollouts
    backbone, task = prepare(recipe)
    torch.set_num_threads(args.threads)
    policy.check_fits(backbone)
    env = TokenSelectionVecEnv(
        Episodes(
            DenseAnswers(backbone, task.train),
            policy.pricing,
            learner.batch,
            learner.cost_weight,
            recipe.score,
            policy.removal,
        )
    )
    steps = env.episodes.steps
    try:
        stock = PPO("MultiInputPolicy", env, n_steps=steps, seed=args.seed, device=backbone.device)
        began = time.perf_counter()
        stock.learn(args.rollouts * steps, progress_bar=True)
        minutes = (time.perf_counter() - began) / 60
    finally:
        env.close()
    stock.policy.set_training_mode(False)
    config = policy.network.config
    cost = decision_cost(stock.policy, config.grid, decision_flops(config))
    flops = FlopsCost.count(backbone.layers, *cost)
    weights = recipe.evaluation.cost_weights
    points = policy_points(backbone, policy, weights)
    for weight in weights:
        reduce = ReducedModel(
            backbone, StockChoice(stock.policy, policy.pricing, weight), policy.layers, policy.removal
        )
        points.append(
            OperatingPoint("stock ppo", policy.removal, weight, reduce, "cost weight", backbone.attached, flops)
        )
    points += baseline_points(backbone, ["random"], args.keep_rates, policy.layers)
    test = task.test.at_most(args.examples)
    batch = recipe.evaluation.batch_size
    evaluation = measure(
        backbone,
        points,
        test,
        flops,
        name=recipe.model.source,
        batch_size=batch,
        repeats=args.rounds,
        gallery=0,
        threads=args.threads,
    )
    rows: list[dict[str, Any]] = [
        {
            "method": point.series,
            "setting": point.setting,
            "accuracy": point.quality,
            "95 %": point.quality_interval,
            "latency": point.latency,
            "FLOPs": point.flops,
            "tokens in the last layer": round(point.kept[-1]),
        }
        for points_of_method in evaluation.series().values()
        for point in points_of_method
    ]
    console.print(
        f"stock PPO: {args.rollouts} rollouts in {minutes:.1f} minutes; native {evaluation.dense_quality:.1%}"
    )
    finish(args, backbone, rows, minutes=minutes, dense_quality=evaluation.dense_quality)
    if args.out:
        write_json(evaluation, args.out.with_name(f"{args.out.stem}-points.json"))


if __name__ == "__main__":
    main()
