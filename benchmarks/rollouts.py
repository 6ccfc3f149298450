"""Speed of collecting rollouts, against the bare reduced forward pass with the same choices.

Collecting is `TokenPPO.collect_rollouts`: environment, policy, sampling, scores and buffer, without the update. The
bare pass gets the same inputs in the same batch and the same kept tokens, from a selector that only replays them. The
dense logits of all examples are computed before, as they are after the first part of a training; with --cold, the
rollouts compute them.

Goal: at least 0.75 of the bare samples per second.
"""

from functools import partial

import torch
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.models import embedded
from benchmarks.replay import Replay
from benchmarks.results import begin, finish, options
from rltr.cost import FlopsCost
from rltr.embedded import load_task
from rltr.envs import TokenSelectionVecEnv, default_layers, make_episodes
from rltr.envs.episodes import row_length
from rltr.evaluate.statistics import median_ratio
from rltr.policies.network import decision_flops
from rltr.recipe import Recipe, load_recipe
from rltr.runtime.backbone import Backbone
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.timing import timed
from rltr.tasks import Examples
from rltr.train import TokenPPO
from rltr.train.run import policy_config

GOAL = 0.75


class Learning:
    """A learner with prices in FLOPs that runs the steps of ``learn`` one at a time.

    Args:
        backbone: the frozen model.
        examples: training examples.
        recipe: settings of the learner and the policy.
        rows: rollouts per batch.
        seed: seed of the learner.
        cold: whether to compute the dense model's answers while collecting instead of now.
    """

    def __init__(
        self, backbone: Backbone, examples: Examples, recipe: Recipe, rows: int, seed: int, cold: bool = False
    ) -> None:
        config = policy_config(backbone, row_length(backbone, examples.batch([0])), recipe.policy)
        self.episodes = make_episodes(
            backbone,
            examples,
            rows=rows,
            layers=default_layers(backbone.depth),
            cost=FlopsCost.count(backbone.layers, *decision_flops(config)),
            cost_weight=recipe.learner.cost_weight,
            scoring=recipe.score,
            removal=recipe.reduction.removal,
            group_size=recipe.learner.group_size,
        )
        if not cold:
            self.episodes.dense(torch.arange(len(examples)))
        env = TokenSelectionVecEnv(self.episodes)
        self.learner = TokenPPO(env, config, n_epochs=recipe.learner.epochs, seed=seed)
        _, self._callback = self.learner._setup_learn(total_timesteps=1)
        self._callback.on_training_start({}, {})

    def collect(self) -> None:
        """Collect the rollouts of one update."""
        learner = self.learner
        assert isinstance(learner.env, VecEnv)
        learner.collect_rollouts(learner.env, self._callback, learner.rollout_buffer, n_rollout_steps=learner.n_steps)

    def update(self) -> None:
        """Update the policy on the last collected rollouts."""
        self.learner.train()

    def close(self) -> None:
        """Detach from the model."""
        assert self.learner.env is not None
        self.learner.env.close()


def main() -> None:
    parser = options(__doc__, rounds=10)
    parser.add_argument("--examples", type=int, default=1000, help="training examples")
    parser.add_argument("--rows", type=int, help="rollouts per batch (default: the demo's)")
    parser.add_argument(
        "--keep", type=float, nargs="+", default=[0.85, 0.7], help="initial keep probabilities, before the priors"
    )
    parser.add_argument("--cold", action="store_true", help="compute dense logits while collecting")
    args = begin(parser)
    recipe = load_recipe("demo")
    args.rows = args.rows or recipe.learner.batch
    backbone, examples = embedded(), load_task(train=args.examples, validation=1, test=1).train
    layers = default_layers(backbone.depth)
    rows = []
    for keep in args.keep:
        wanted = recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"keep": keep})})
        learning = Learning(backbone, examples, wanted, args.rows, args.seed, args.cold)
        episodes = learning.episodes
        learning.collect()
        collecting, bare = [], []
        for _ in range(args.rounds):
            collecting.append(timed(learning.collect, backbone.device)[1])
            assert episodes.outcome is not None
            trace, index = episodes.outcome.trace, episodes.outcome.index
            inputs = {name: value.to(backbone.device) for name, value in examples.batch(index).items()}
            reduce = ReducedModel(backbone, Replay.of(trace), layers, recipe.reduction.removal)
            with torch.no_grad():
                bare.append(timed(partial(reduce, inputs), backbone.device)[1])
        learning.close()
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
