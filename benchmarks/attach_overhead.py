"""Overhead of an attached policy that keeps all tokens, against the native model with sdpa, timed in alternation.

Goal: at most 1.03 times the native time, ViT-S/16 geometry at 224 pixels, batch 16 and 64.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import add_size_options, noise, sized
from benchmarks.paired import Contender, abba
from benchmarks.results import begin, finish, options
from rltr.envs import default_layers
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel

GOAL = 1.03


def measure_one(backbone: Backbone, inputs: dict[str, Tensor], rounds: int) -> dict[str, Any]:
    """Time a reduced pass that keeps all tokens against the native pass, on one batch."""
    reduce = ReducedModel(backbone, KeepAll(), default_layers(backbone.depth))
    native = Contender(partial(backbone.model, **backbone.uncached(inputs)))
    kept = Contender(partial(reduce, inputs), backbone.attached)
    found = abba(kept, native, backbone.device, rounds)
    with torch.inference_mode():
        expected = backbone.model(**backbone.uncached(inputs)).logits
        with backbone.attached():
            error = (reduce(inputs)[0]["logits"] - expected).abs().max().item()
    ratio, interval = found.ratio
    return {
        "native s": sum(found.second) / (2 * rounds),
        "kept / native": ratio,
        "95 %": interval,
        "goal": f"≤ {GOAL}",
        "met": ratio <= GOAL,
        "logit error": error,
    }


def main() -> None:
    parser = options(__doc__, rounds=10)
    add_size_options(parser)
    args = begin(parser)
    backbone = sized(args)
    rows = [
        {"dtype": args.dtype, "batch": batch, **measure_one(backbone, noise(backbone, batch), args.rounds)}
        for batch in args.batch
    ]
    finish(args, backbone, rows)


if __name__ == "__main__":
    main()
