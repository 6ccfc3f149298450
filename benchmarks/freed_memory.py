"""Cost of returning freed memory to the system, in native passes of the embedded model.

One process runs many passes of one batch, first with and then without returning memory. Reported are the median time
and the page faults per pass. Only glibc has the setting.
"""

import resource
from statistics import median
from typing import Any

import torch
from rich.console import Console

from benchmarks.models import embedded, test_images
from benchmarks.results import finish, options
from rltr.system.memory import keep_freed_memory
from rltr.system.timing import timed


def passes(rounds: int, batch: int) -> dict[str, Any]:
    """Measure native passes: median seconds, and fewest and most page faults."""
    backbone, inputs = embedded(), test_images(batch)
    seconds, faults = [], []
    with torch.inference_mode():
        for _ in range(3):
            backbone.model(**inputs)
        for _ in range(rounds):
            begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            seconds.append(timed(lambda: backbone.model(**inputs), backbone.device)[1])
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
    return {"batch": batch, "seconds": median(seconds), "fewest faults": min(faults), "most faults": max(faults)}


def main() -> None:
    parser = options(__doc__, rounds=20)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    before = passes(args.rounds, args.batch)
    if not keep_freed_memory():
        Console().print("this system has no such setting, or it is already set: both rows measure the same")
    after = passes(args.rounds, args.batch)
    finish(args, embedded(), [{"freed memory": "given back", **before}, {"freed memory": "kept", **after}])


if __name__ == "__main__":
    main()
