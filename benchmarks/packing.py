"""Overhead of index work: packing, padding, gathering and masks, as a share of the time of the layers.

Random tokens are removed before layer 1, so that all later layers work on rows of different lengths, and with token
sizes if removed tokens are merged. --spread sets how much the lengths differ: at 0.8, rows that keep a quarter of 197
tokens on average keep 10 to 89.

Timed inside the layers: gathering rows into groups and back, masks, the index that the first layer computes for all,
and gathering per-token arguments (rotary embeddings). Transposing the attention output back to (tokens, heads) is not
counted, because the native model does it, too. The decision is not counted either: see decision_overhead.

"uneven / equal, per FLOP" is the time of the whole pass over that of a pass in which every row keeps the mean number of
tokens, divided by the same ratio of FLOPs. It covers all costs of unevenness, including calls too small to be fast.

Goal: at most 8 % of the layers' time at 50 % of the tokens, ViT-S geometry, batch 64. The embedded model has no goal.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, get_args
from unittest.mock import patch

import torch
from jaxtyping import Bool
from torch import Tensor

from benchmarks.models import add_size_options, embedded, noise, sized, test_images, tokens_per_row
from benchmarks.paired import Contender, abba
from benchmarks.replay import Replay
from benchmarks.results import begin, finish, options
from rltr.cost import FlopsCost
from rltr.evaluate.statistics import median_ratio
from rltr.evaluate.tally import reduced_cost
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.runtime.forward import Forward
from rltr.runtime.kernels import BACKENDS, Plan
from rltr.runtime.kernels.groups import Groups
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.timing import timed

GOALS = {"vit-s": 0.08}
START = 1
INDEX_WORK: list[tuple[type, str]] = [
    (Plan, "groups"), (Plan, "masks"), (Groups, "arrange"), (Groups, "_in_order"), (Forward, "gather_kept")
]  # fmt: skip


class Watch:
    """Sums up seconds by name; a call inside a call of the same name is counted once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: set[str] = set()

    def around(self, name: str, call: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
        """Wrap a function so that its time is added under ``name``."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            if name in self._running:
                return call(*args, **kwargs)
            self._running.add(name)
            try:
                result, took = timed(partial(call, *args, **kwargs), device)
            finally:
                self._running.remove(name)
            self.seconds[name] += took
            return result

        return watched


@contextmanager
def watched(backbone: Backbone) -> Iterator[Watch]:
    """Time the layers after the decision, and the index work in them."""
    watch = Watch()
    with ExitStack() as stack:
        for owner, name in INDEX_WORK:
            stack.enter_context(patch.object(owner, name, watch.around("index", getattr(owner, name), backbone.device)))
        for layer in backbone.layers[START:]:
            stack.enter_context(patch.object(layer, "forward", watch.around("layers", layer.forward, backbone.device)))
        yield watch


def random_keep_mask(grid: int, counts: Tensor) -> Bool[Tensor, "rows grid"]:
    """Keep mask of CLS and random other tokens; each row keeps ``counts`` tokens, CLS included."""
    dice = torch.rand(len(counts), grid)
    dice[:, 0] = -1
    return dice.argsort(1).argsort(1) < counts[:, None]


def measure_one(name: str, backbone: Backbone, batch: int, share: float, removal: Removal, args: Any) -> dict[str, Any]:
    """Measure one model, batch size, mean fraction of kept tokens and removal mode; one row of the table."""
    inputs = test_images(batch) if name == "embedded" else noise(backbone, batch)
    grid = tokens_per_row(backbone)
    middle = share * grid
    counts = torch.linspace(middle * (1 - args.spread), middle * (1 + args.spread), batch).round().clamp(1, grid)
    equal = torch.full_like(counts, counts.mean().round().item())
    passes = [
        ReducedModel(backbone, Replay([random_keep_mask(grid, kept)]), [START], removal)
        for kept in (counts[torch.randperm(batch)], equal)
    ]
    flops = FlopsCost.count(backbone.layers)
    with torch.inference_mode(), backbone.attached():
        costs = [reduced_cost(flops, reduce(inputs)[1], backbone.depth).sum().item() for reduce in passes]
    uneven, even = (Contender(partial(reduce, inputs), backbone.attached) for reduce in passes)
    found = abba(uneven, even, backbone.device, args.rounds)
    index, layers = [], []
    with watched(backbone) as watch, torch.inference_mode(), backbone.attached():
        for _ in range(args.rounds):
            watch.seconds.clear()
            passes[0](inputs)
            index.append(watch.seconds["index"])
            layers.append(watch.seconds["layers"])
    part, interval = median_ratio(index, layers)
    ratio, ratio_interval = found.ratio
    per_flop = costs[1] / costs[0]
    return {
        "model": name,
        "batch": batch,
        "dropped are": removal,
        "kept": counts.mean().item() / grid,
        "tokens": (int(counts.min()), int(counts.max())),
        "index / layers": part,
        "95 %": interval,
        "goal": f"≤ {GOALS[name]}" if name in GOALS else None,
        "met": part <= GOALS[name] if name in GOALS else None,
        "uneven / equal, per FLOP": ratio * per_flop,
        "its 95 %": ratio_interval and tuple(end * per_flop for end in ratio_interval),
    }


def main() -> None:
    parser = options(__doc__, rounds=10)
    add_size_options(parser)
    parser.add_argument("--model", choices=["vit-s", "embedded"], nargs="+", default=["vit-s", "embedded"])
    parser.add_argument("--share", type=float, nargs="+", default=[0.5, 0.25], help="mean fractions of kept tokens")
    parser.add_argument(
        "--spread", type=float, default=0.8, help="rows keep (1 - spread) to (1 + spread) times the mean (default 0.8)"
    )
    parser.add_argument("--attention", choices=BACKENDS, default="auto", help="attention backend")
    args = begin(parser)
    args.batch = args.batch or [64]
    small = sized(args)
    rows = []
    for name in args.model:
        backbone = Backbone((embedded() if name == "embedded" else small).model, attention=args.attention)
        rows += [
            measure_one(name, backbone, batch, share, removal, args)
            for batch in args.batch
            for share in args.share
            for removal in get_args(Removal)
        ]
    finish(args, backbone, rows)


if __name__ == "__main__":
    main()
