"""Measured speed-up against that predicted by FLOPs, with random tokens removed at a quarter of the depth.

Every token is kept independently with the same probability, so rows differ in length; --equal keeps the same number in
every row. The promise is the FLOPs of the dense layers over those of the reduced layers (`FlopsCost`). The time is that
of the whole model, with embedding, head, packing and, in mode merge, similarities, averaging and size-weighted
attention. "of whole promise" also counts the embedding's FLOPs in the promise: the remaining gap is due to the runtime.

Goal: at least 0.95 of the promise in float32 and 0.9 in bfloat16, at 50 % and 25 % of the tokens.
"""

from functools import partial
from typing import Any, get_args

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from benchmarks.models import add_size_options, noise, sized
from benchmarks.paired import Contender, abba
from benchmarks.replay import Replay
from benchmarks.results import begin, finish, options
from rltr.cost import FlopsCost, dense
from rltr.envs.episodes import row_length
from rltr.evaluate.tally import reduced_cost
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.selectors.reduced_model import ReducedModel

GOALS = {"float32": 0.95, "bfloat16": 0.9}


def random_mask(rows: int, grid: int, share: float, equal: bool) -> Bool[Tensor, "rows grid"]:
    """Keep mask: CLS, and each other token with probability ``share``; with ``equal``, that fraction of every row."""
    dice = torch.rand(rows, grid)
    dice[:, 0] = -1
    return dice.argsort(1).argsort(1) < round(share * grid) if equal else dice < share


def embedding_flops(backbone: Backbone, batch: int, grid: int) -> int:
    """FLOPs of a model's patch embedding; 0 for texts, whose embedding is a lookup."""
    patches = next((module for module in backbone.model.modules() if isinstance(module, nn.Conv2d)), None)
    return 0 if patches is None else batch * 2 * (grid - 1) * patches.weight.numel()


def measure_one(
    backbone: Backbone,
    inputs: dict[str, Tensor],
    share: float,
    removal: Removal,
    rounds: int,
    start: int,
    equal: bool = False,
) -> dict[str, Any]:
    """Time the native pass against the reduced one, on one batch without padding.

    Args:
        backbone: the model.
        inputs: a batch on the model's device.
        share: fraction of tokens to keep.
        removal: what happens to the other tokens.
        rounds: rounds of alternation.
        start: the layer before which tokens are removed.
        equal: whether to keep the same number of tokens in every row.
    """
    flops = FlopsCost.count(backbone.layers)
    batch = len(next(iter(inputs.values())))
    grid = row_length(backbone, {name: value[:1] for name, value in inputs.items()})
    mask = random_mask(batch, grid, share, equal).to(backbone.device)
    reduce = ReducedModel(backbone, Replay([mask]), [start], removal)
    native = Contender(partial(backbone.model, **backbone.uncached(inputs)))
    found = abba(native, Contender(partial(reduce, inputs), backbone.attached), backbone.device, rounds)
    with torch.inference_mode(), backbone.attached():
        _, trace = reduce(inputs)
    whole = batch * dense(flops, backbone.depth, grid)
    reduced = reduced_cost(flops, trace, backbone.depth).sum().item()
    embedding = embedding_flops(backbone, batch, grid)
    speedup, interval = found.ratio
    goal = GOALS[str(backbone.dtype).removeprefix("torch.")]
    reached = speedup * reduced / whole
    return {
        "dropped are": removal,
        "kept": trace.stages[1].total / trace.stages[0].total,
        "promise": whole / reduced,
        "speed-up": speedup,
        "95 %": interval,
        "of promise": reached,
        "goal": f"≥ {goal}",
        "met": reached >= goal,
        "of whole promise": speedup * (reduced + embedding) / (whole + embedding),
    }


def main() -> None:
    parser = options(__doc__, rounds=10)
    add_size_options(parser)
    parser.add_argument("--share", type=float, nargs="+", default=[0.5, 0.25], help="fractions of tokens to keep")
    parser.add_argument("--start", type=int, help="remove tokens before this layer (default: a quarter of the depth)")
    parser.add_argument("--equal", action="store_true", help="keep the same number of tokens in every row")
    args = begin(parser)
    backbone = sized(args)
    start = args.start = backbone.depth // 4 if args.start is None else args.start
    rows = []
    for batch in args.batch:
        inputs = noise(backbone, batch)
        for share in args.share:
            for removal in get_args(Removal):
                found = measure_one(backbone, inputs, share, removal, args.rounds, start, args.equal)
                rows.append({"dtype": args.dtype, "batch": batch, **found})
    finish(args, backbone, rows)


if __name__ == "__main__":
    main()
