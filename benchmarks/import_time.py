"""Time to import `rltr.attach` in a program that has already imported transformers' model classes.

Each measurement is a new process. It imports what a program that loads a model has already imported (torch,
transformers' auto classes and one model class), then imports `rltr.attach`, and prints the seconds of the second step.
The result is the median.

Goal: at most 0.3 s.
"""

import subprocess
import sys
from statistics import median
from typing import Any

from benchmarks.models import embedded
from benchmarks.results import begin, finish, options

GOAL = 0.3
PROGRAM = """
import time
from transformers import AutoModelForImageClassification, ViTForImageClassification
begun = time.perf_counter()
import rltr
rltr.attach
print(time.perf_counter() - begun)
"""


def seconds() -> float:
    """Measure the import once, in a new process; seconds."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    args = begin(options(__doc__, rounds=7))
    seconds()  # compiles modules that were never imported before
    found = sorted(seconds() for _ in range(args.rounds))
    row: dict[str, Any] = {
        "seconds": median(found),
        "fastest": found[0],
        "slowest": found[-1],
        "goal": f"≤ {GOAL}",
        "met": median(found) <= GOAL,
    }
    finish(args, embedded(), [row])


if __name__ == "__main__":
    main()
