"""Run every operating point and the native model over a split; quality and time come from the same passes."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from rltr.cost import CostModel
from rltr.errors import RltrError
from rltr.evaluate.points import POLICY, OperatingPoint, Shown
from rltr.evaluate.results import Evaluation
from rltr.evaluate.statistics import quality_interval
from rltr.evaluate.system_info import system_info
from rltr.evaluate.tally import Tally, summarise
from rltr.runtime.backbone import Backbone
from rltr.system.device import move_inputs
from rltr.system.timing import native_beside, pass_order, timed, torch_threads
from rltr.tasks import Examples
from rltr.tasks.goals import Goal
from rltr.tasks.goals.plausibility import warn_if_implausible


def measure(
    backbone: Backbone,
    points: Sequence[OperatingPoint],
    examples: Examples,
    flops: CostModel,
    *,
    name: str = "",
    batch_size: int = 64,
    repeats: int = 1,
    threads: int | None = None,
    native_every: int = 4,
    gallery: int = 12,
    seed: int = 0,
    progress: bool = False,
    split: str = "test",
    clock: Callable[[], float] = time.perf_counter,
) -> Evaluation:
    """Run every operating point over all examples, in alternation with the native model.

    Within a batch the points run in rotating order, with native passes before the first, after the last and in between.
    The time of a point is divided by the mean of the native passes just before and after it. The first batch runs once
    more at the start, untimed, as a warm-up. A smaller last batch counts for quality and FLOPs but is not timed,
    because times of two batch sizes would be mixed.

    Args:
        backbone: the frozen model; it must not be attached outside of a point's ``attached``.
        points: operating points, at least one.
        examples: a split the policy was not trained on, at least two examples.
        flops: analytic cost for points without a cost model of their own.
        name: name of the model in the report; its ``name_or_path`` if empty.
        batch_size: inputs per pass, at least 1.
        repeats: passes over the split. Quality and tokens come from the first, times from all.
        threads: number of CPU threads; torch's current number if None.
        native_every: largest number of points between two native passes.
        gallery: number of examples, spread evenly over the split, for which the policy's kept tokens are recorded.
        seed: seed of the resampling behind intervals.
        progress: show a progress bar.
        split: name of the split in messages.
        clock: returns seconds; replaced in tests.

    Raises:
        RltrError: if there are no points or fewer than two examples, or a number above is below 1.
    """
    if not points:
        raise RltrError("There is no operating point to evaluate: give at least one policy setting or baseline.")
    if len(examples) < 2:
        raise RltrError(f"The {split} split has {len(examples)} example(s): evaluation needs at least 2.")
    if min(batch_size, repeats, native_every) < 1:
        raise RltrError(
            f"batch_size ({batch_size}), repeats ({repeats}) and native_every ({native_every}) must be at least 1."
        )
    model, device = backbone.model, backbone.device
    goal, labels = examples.goal, examples.labels.cpu()
    shown = _spread_evenly(gallery, len(examples))
    batches = [range(start, min(start + batch_size, len(examples))) for start in range(0, len(examples), batch_size)]
    # Repeats are only for timing, which leaves out a smaller last batch.
    passes = batches + [batch for batch in batches if len(batch) == len(batches[0])] * (repeats - 1)
    native = Tally()
    dense_said: dict[int, str | None] = {}
    whole: list[Tensor] = []
    tallies = [Tally() for _ in points]
    was_training = model.training
    model.eval()
    try:
        with torch_threads(threads) as used_threads, torch.inference_mode():
            warm_up = move_inputs(examples.batch(batches[0]), device, backbone.dtype)
            model(**warm_up)
            for point in points:
                with point.attached():
                    point.reduce(warm_up)
            bar = track(
                enumerate(passes),
                "evaluate",
                total=len(passes),
                console=Console(stderr=True),
                transient=True,
                disable=not progress,
            )
            for number, index in bar:
                inputs = move_inputs(examples.batch(index), device, backbone.dtype)  # outside of every timer
                order = pass_order(len(points), number, native_every)
                seconds: list[float] = []
                first = number < len(batches)
                dense: Tensor | None = None
                for which in order:
                    if which is None:
                        output, took = timed(partial(model, **backbone.uncached(inputs)), device, clock)
                        if first and dense is None:
                            dense = goal.read(output, inputs).float().cpu()
                            goal.check(dense, dense, labels[index])
                            native.answer(goal, dense, dense, labels[index])
                            whole.append(dense)
                            dense_said |= dict(zip(index, _said(goal, dense, examples), strict=True))
                    else:
                        point, tally = points[which], tallies[which]
                        with point.attached():
                            (output, trace), took = timed(partial(point.reduce, inputs), device, clock)
                        if first:
                            assert dense is not None  # the native model goes first
                            answers = goal.read(output, inputs).float().cpu()
                            goal.check(dense, answers, labels[index])
                            tally.answer(goal, dense, answers, labels[index])
                            tally.spend(trace, len(backbone.layers), point.flops or flops, point.latency)
                            if point.method == POLICY:
                                tally.view(point, trace, _said(goal, answers, examples), index, shown)
                    seconds.append(took)
                if len(index) == len(batches[0]):
                    native.seconds += [took for took, which in zip(seconds, order, strict=True) if which is None]
                    beside = native_beside(order, seconds)
                    for place, which in enumerate(order):
                        if which is not None:
                            tallies[which].seconds.append(seconds[place])
                            tallies[which].references.append(beside[which])
    finally:
        model.train(was_training)

    warn_if_implausible(goal, torch.cat(whole), labels, examples.classes, split)
    rows = len(batches[0])
    return Evaluation(
        environment=system_info(backbone, used_threads),
        model=name or getattr(model.config, "name_or_path", "") or type(model).__name__,
        examples=len(examples),
        classes=list(examples.classes),
        dense_quality=float(native.quality.mean()),
        dense_quality_interval=quality_interval(native.quality, seed=seed),
        native_milliseconds=1000 * float(np.median(native.seconds)) / rows,
        native_throughput=rows / float(np.median(native.seconds)),
        tokens=tallies[0].grid / len(examples),
        batch_size=rows,
        timed_batches=len(tallies[0].seconds),
        native_every=native_every,
        seed=seed,
        points=[summarise(point, tally, native, rows, seed) for point, tally in zip(points, tallies, strict=True)],
        gallery=[
            Shown(
                example=example,
                name=examples.names[example],
                label=goal.say(labels[example], examples.classes),
                dense_answer=dense_said[example],
                dense_quality=float(native.quality[example]),
                views=[tally.views[example] for tally in tallies if example in tally.views],
            )
            for example in shown
            if any(example in tally.views for tally in tallies)
        ],
        quality_name=goal.quality_name,
        chance=goal.chance(examples.classes),
    )


def _said(goal: Goal, answers: Tensor, examples: Examples) -> list[str | None]:
    """Readable form of each answer to a batch, a class name for example; None if there is none."""
    return [goal.say(decided, examples.classes) for decided in goal.decide(answers)]


def _spread_evenly(count: int, examples: int) -> list[int]:
    """Indices spread evenly over the split, which may be sorted by class."""
    return sorted({round(place) for place in np.linspace(0, examples - 1, min(count, examples))})
