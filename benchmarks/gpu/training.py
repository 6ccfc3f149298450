"""A short training of the embedded model: rollouts per second, time of an update, and peak memory."""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.cases import moved
from benchmarks.models import embedded
from benchmarks.rollouts import Learning
from rltr.embedded import load_task
from rltr.evaluate.statistics import median_ratio
from rltr.recipe import load_recipe
from rltr.system.timing import timed


def train(
    device: torch.device,
    updates: int,
    rows: int | None,
    examples: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """Collect rollouts and learn from them, by the demo's recipe, with prices in FLOPs.

    Args:
        device: the device.
        updates: largest number of timed updates; one untimed update comes before.
        rows: rollouts per update; None takes the recipe's.
        examples: number of training examples.
        seconds: time after which no update starts.
        clock: returns seconds; replaced in tests.
    """
    recipe = load_recipe("demo")
    backbone = moved(embedded(), device)
    rows = rows or recipe.learner.batch
    learning = Learning(backbone, load_task(train=examples, validation=1, test=1).train, recipe, rows, seed=0)
    try:
        learning.collect()
        learning.update()
        if device.type != "cpu":
            torch.accelerator.reset_peak_memory_stats(device)
        begun = clock()
        collecting: list[float] = []
        updating: list[float] = []
        while len(collecting) < updates and (not collecting or clock() - begun < seconds):
            collecting.append(timed(learning.collect, device)[1])
            updating.append(timed(learning.update, device)[1])
        outcome = learning.episodes.outcome
        assert outcome is not None
        both = [one + other for one, other in zip(collecting, updating, strict=True)]
        throughput, interval = median_ratio([rows] * len(both), both)
        return [
            {
                "dtype": str(backbone.dtype).removeprefix("torch."),
                "rollouts per update": rows,
                "updates": len(updating),
                "collecting, s per update": sum(collecting) / len(collecting),
                "learning, s per update": sum(updating) / len(updating),
                "rollouts/s": throughput,
                "95 %": interval,
                "reward": outcome.reward.mean().item(),
                "cost": outcome.cost.mean().item(),
                "peak MB": None if device.type == "cpu" else torch.accelerator.max_memory_allocated(device) / 2**20,
            }
        ]
    finally:
        learning.close()
