"""The native vector environment against stable-baselines3's `DummyVecEnv` of single environments, in steps per second.

Both step the same embedded model with random actions, a whole episode per round; the dense logits of all examples are
computed before. One decision of one environment counts as one step.

Goal: at least 20 times the steps per second with 64 inputs. "bare ratio" shows how much a processor gains by batching:
the time of the model alone, with the same inputs and removed tokens, one input at a time, over the time of all at once.
Both do the same arithmetic; a batch only saves calls.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.models import embedded
from benchmarks.replay import Replay
from benchmarks.results import begin, finish, options
from rltr.embedded import load_task
from rltr.envs import TokenSelectionEnv, TokenSelectionVectorEnv
from rltr.evaluate.statistics import median_ratio
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.timing import timed

GOAL = 20


def episode(env: TokenSelectionVectorEnv | DummyVecEnv, actions: NDArray[np.int8]) -> None:
    """Run one episode in every environment."""
    for action in actions:
        env.step(action)


def bare(env: TokenSelectionVectorEnv, actions: NDArray[np.int8]) -> tuple[float, float]:
    """Seconds of the reduced model without an environment: all inputs at once, and one input at a time."""
    episodes = env.episodes
    backbone, layers = episodes.backbone, episodes.pricing.layers
    inputs = {name: value.to(backbone.device) for name, value in episodes.examples.batch(episodes.index).items()}
    masks = [torch.from_numpy(action).bool().to(backbone.device) for action in actions]

    def run(rows: slice) -> None:
        chosen = Replay([mask[rows] for mask in masks])
        ReducedModel(backbone, chosen, layers, episodes.removal)({name: value[rows] for name, value in inputs.items()})

    with torch.inference_mode():
        _, batch = timed(partial(run, slice(None)), backbone.device)
        _, singles = timed(lambda: list(map(run, [slice(i, i + 1) for i in range(env.num_envs)])), backbone.device)
    return batch, singles


def main() -> None:
    parser = options(__doc__, rounds=10)
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.7, 0.3], help="probabilities of random actions")
    args = begin(parser)
    backbone, examples = embedded(), load_task(train=args.examples, validation=1, test=1).train
    native = TokenSelectionVectorEnv(args.inputs, model=backbone, examples=examples)
    dense = native.episodes.dense
    dense(torch.arange(len(examples)))

    def single() -> TokenSelectionEnv:
        env = TokenSelectionEnv(model=backbone, examples=examples)
        env.episodes.dense = dense
        return env

    dummy = DummyVecEnv([single] * args.inputs)
    native.reset(seed=args.seed)
    dummy.seed(args.seed)
    dummy.reset()
    steps = native.episodes.steps
    rng = np.random.default_rng(args.seed)
    rows = []
    for keep in args.keep:
        fast, slow, at_once, one_by_one = [], [], [], []
        for number in range(args.rounds + 1):
            actions = (rng.random((steps, args.inputs, native.episodes.grid)) < keep).astype(np.int8)
            pair = [timed(partial(episode, env, actions), backbone.device)[1] for env in (native, dummy)]
            if number:  # the first round warms up
                fast.append(pair[0])
                slow.append(pair[1])
                batch, singles = bare(native, actions)
                at_once.append(batch)
                one_by_one.append(singles)
        ratio, interval = median_ratio(slow, fast)
        total = args.rounds * steps * args.inputs
        rows.append(
            {
                "inputs": args.inputs,
                "keep": keep,
                "native steps/s": total / sum(fast),
                "DummyVecEnv steps/s": total / sum(slow),
                "ratio": ratio,
                "95 %": interval,
                "bare ratio": median_ratio(one_by_one, at_once)[0],
                "goal": f"≥ {GOAL}",
                "met": ratio >= GOAL,
            }
        )
    dummy.close()
    native.close()
    finish(args, backbone, rows)


if __name__ == "__main__":
    main()
