"""What attaching costs when nothing leaves: everything kept against the native sdpa model, in alternation.

Goal: at most 1.03 times the native time, ViT-S/16 geometry at 224 pixels, batch 16 and 64.
"""

from functools import partial

import torch

from benchmarks.models import add_size_options, noise, sized
from benchmarks.paired import Contender, abba
from benchmarks.results import begin, finish, options
from rltr.envs import default_layers
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel

GOAL = 1.03


def main() -> None:
    parser = options(__doc__, rounds=10)
    add_size_options(parser)
    args = begin(parser)
    backbone = sized(args)
    reduce = ReducedModel(backbone, KeepAll(), default_layers(backbone.depth))
    rows = []
    for batch in args.batch:
        inputs = noise(backbone, batch)
        native = Contender(partial(backbone.model, **inputs))
        kept = Contender(partial(reduce, inputs), backbone.attached)
        found = abba(kept, native, backbone.device, args.rounds)
        with torch.inference_mode():
            expected = backbone.model(**inputs).logits
            with backbone.attached():
                error = (reduce(inputs)[0]["logits"] - expected).abs().max().item()
        ratio, interval = found.ratio
        rows.append(
            {
                "dtype": args.dtype,
                "batch": batch,
                "native s": sum(found.second) / (2 * args.rounds),
                "kept / native": ratio,
                "95 %": interval,
                "goal": f"≤ {GOAL}",
                "met": ratio <= GOAL,
                "logit error": error,
            }
        )
    finish(args, backbone, rows)


if __name__ == "__main__":
    main()
