"""Collecting rollouts against the bare reduced forward pass, which repeats the choices the rollouts just made.

Collecting is `TokenPPO.collect_rollouts`: environment, policy, sampling, scores and buffer, without the update. The
bare pass gets the same inputs in the same batch and the same kept tokens, from a selector that only looks them up. The
dense logits of all examples are computed before, as they are after the first part of a training; --cold leaves that to
the rollouts.

Goal: at least 0.75 of the bare samples per second.
"""

from functools import partial

import torch
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.models import embedded, tokens_per_row
from benchmarks.replay import Replay
from benchmarks.results import begin, finish, options
from rltr.cost import FlopsCost
from rltr.embedded import load_task
from rltr.envs import TokenSelectionVecEnv, default_layers, make_episodes
from rltr.evaluate.statistics import median_ratio
from rltr.policies.network import decision_flops
from rltr.recipe import load_recipe
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.timing import timed
from rltr.train import TokenPPO
from rltr.train.run import policy_config

GOAL = 0.75


def main() -> None:
    parser = options(__doc__, rounds=10)
    parser.add_argument("--examples", type=int, default=1000, help="of the training split")
    parser.add_argument("--rows", type=int, help="rollouts per batch (default: the demo's)")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.85, 0.7], help="probabilities, before the priors")
    parser.add_argument("--cold", action="store_true", help="compute dense logits while collecting")
    args = begin(parser)
    recipe = load_recipe("demo")
    args.rows = args.rows or recipe.learner.batch
    backbone, examples = embedded(), load_task(train=args.examples, validation=1, test=1).train
    layers = default_layers(backbone.depth)
    rows = []
    for keep in args.keep:
        grid = tokens_per_row(backbone)
        config = policy_config(backbone, grid, recipe.policy.model_copy(update={"keep": keep}))
        episodes = make_episodes(
            backbone,
            examples,
            rows=args.rows,
            layers=layers,
            cost=FlopsCost.count(backbone.layers, *decision_flops(config)),
            cost_weight=recipe.learner.cost_weight,
            scoring=recipe.score,
            removal=recipe.reduction.removal,
            group_size=recipe.learner.group_size,
        )
        if not args.cold:
            episodes.dense(torch.arange(len(examples)))
        env = TokenSelectionVecEnv(episodes)
        learner = TokenPPO(env, config, seed=args.seed)
        _, callback = learner._setup_learn(total_timesteps=1)
        callback.on_training_start({}, {})
        assert isinstance(learner.env, VecEnv)
        collect = partial(
            learner.collect_rollouts, learner.env, callback, learner.rollout_buffer, n_rollout_steps=learner.n_steps
        )
        collect()
        collecting, bare = [], []
        for _ in range(args.rounds):
            collecting.append(timed(collect, backbone.device)[1])
            assert episodes.outcome is not None
            trace, index = episodes.outcome.trace, episodes.outcome.index
            inputs = {name: value.to(backbone.device) for name, value in examples.batch(index).items()}
            reduce = ReducedModel(backbone, Replay.of(trace), layers, recipe.reduction.removal)
            with torch.no_grad():
                bare.append(timed(partial(reduce, inputs), backbone.device)[1])
        env.close()
        ratio, interval = median_ratio(bare, collecting)
        rows.append(
            {
                "rows": args.rows,
                "tokens kept": [round(stage.total / args.rows) for stage in trace.stages],
                "rollouts/s": args.rows * args.rounds / sum(collecting),
                "bare/s": args.rows * args.rounds / sum(bare),
                "collecting / bare": ratio,
                "95 %": interval,
                "goal": f"≥ {GOAL}",
                "met": ratio >= GOAL,
            }
        )
    finish(args, backbone, rows)


if __name__ == "__main__":
    main()
