"""The demo's recipe with several seeds against every baseline, at equal measured latency on the embedded test set.

Trains each seed with `rltr train` in a separate process (time and peak memory are those of the whole process), or
takes finished runs (--runs). One sweep then measures all seeds' policies and all baselines, in alternation with the
native model. Baselines get more keep rates than in the report, so that each covers the whole range of latencies, and
two sets of decision layers: the policy's, and layers 1, 2, 3, … without the last two (every second one in models of
more than 8 layers); the better set counts at each latency. The untrained policy, which has only the priors, is a
baseline, too.

Beside the JSON file in --out, the sweep's own results (…-points.json) and a figure (….png) are written.

The verdict is on the mean over the seeds minus the best baseline. Its 95 % interval covers the trainings (by the spread
between seeds) and the test images (resampled a thousand times, the same for all methods), but not the measured times;
see rltr.evaluate.statistics.seeds_interval. The verdict is `above` or `below` if the interval excludes 0, and `level`
if it includes 0: then this test cannot tell.

Goals: training in at most 5 minutes and 2 GB; below 0.8 of the native time, a mean above every baseline; from 0.8 on, a
mean that is not below the best baseline by more than the interval. Both can be met at `level`: read goal and verdict.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.results import begin, console, finish, options
from rltr.cost import FlopsCost
from rltr.deploy import Policy, load_policy
from rltr.evaluate import POLICY, Evaluation, OperatingPoint, baseline_points, measure, policy_points, write_json
from rltr.evaluate.pareto import COSTS, compare, drawn
from rltr.evaluate.statistics import seeds_interval
from rltr.jobs.preparation import prepare
from rltr.recipe import Recipe
from rltr.report.plots import draw_curve, legend_below
from rltr.report.style import ACCENT, new_figure, write_png
from rltr.report.wording import verdict
from rltr.system.folders import POLICY_FOLDER

KEEP_RATES = (0.97, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
MINUTES, GIGABYTES = 5, 2
EQUAL_FROM = 0.8
"""From this latency on it is enough to be as good as the best baseline: hardly any token has to be removed."""


def train(seed: int, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train one seed by the command line; return minutes and peak memory of the process."""
    command = [sys.executable, "-m", "rltr", "train", "--recipe", "demo", "--seed", str(seed), "--out", str(out)]
    command += ["--threads", str(args.threads), *(part for change in args.set for part in ("--set", change))]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    # Only wait4 gives the peak memory of a single child; Windows has no such call.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    minutes = (time.perf_counter() - began) / 60
    if process.returncode:
        raise SystemExit(f"training seed {seed} failed: {' '.join(command)}")
    gigabytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    met = minutes <= MINUTES and gigabytes <= GIGABYTES
    return {"run": str(out), "minutes": minutes, "peak GB": gigabytes, "met": met}


def points_of(name: str, policy: Policy, recipe: Recipe, backbone: Any) -> list[OperatingPoint]:
    """The policy's operating points, with ``name`` as their method."""
    policy.check_fits(backbone)
    return [replace(point, method=name) for point in policy_points(backbone, policy, recipe.evaluation.cost_weights)]


def usual_layers(depth: int) -> range:
    """Usual decision layers of a baseline: early enough to save much, but not layer 0."""
    return range(1, max(depth - 2, 2), 2 if depth > 8 else 1)


def at_equal_latency(
    evaluation: Evaluation, names: Sequence[str], latencies: Sequence[float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare the mean over the policies, and each single policy, with the best baseline at each latency."""
    curves, resampled = evaluation.curves("latency"), evaluation.resampled()
    policies = {name: [s for s in curves if s.startswith(f"{name} ")][0] for name in names}
    baselines = {series: points for series, points in curves.items() if series not in policies.values()}
    compared = {}
    for name, series in policies.items():
        pair = {**baselines, series: curves[series]}
        compared[name] = compare(
            pair, series, latencies, {series: resampled[series] for series in pair}, evaluation.examples
        )
    draws = drawn(curves, resampled, latencies)
    rows = []
    for place, latency in enumerate(latencies):
        here = [compared[name][place] for name in names]
        accuracies = [found.quality for found in here if found.quality is not None]
        differences = [found.difference for found in here if found.difference is not None]
        best, interval, met = here[0].best, None, None
        # No verdict if a seed or every baseline lacks a measurement at this latency.
        if best is not None and len(differences) == len(names):
            own = sum(draws[series][:, place] for series in policies.values()) / len(names)
            interval = seeds_interval(differences, own - draws[best][:, place], evaluation.examples)
            met = mean(differences) > 0 if latency < EQUAL_FROM else interval[1] >= 0
        rows.append(
            {
                "latency": latency,
                "policy": mean(accuracies) if accuracies else None,
                "lowest": min(accuracies, default=None),
                "highest": max(accuracies, default=None),
                "best baseline": best,
                "its accuracy": here[0].best_quality,
                "difference": None if interval is None else mean(differences),
                "95 % interval": None if interval is None else list(interval),
                "verdict": verdict(interval),
                "goal": "mean above" if latency < EQUAL_FROM else "not below",
                "met": met,
            }
        )
    each = [
        {
            "policy": name,
            "latency": c.cost,
            "accuracy": c.quality,
            "best": c.best,
            "difference": c.difference,
            "interval": c.interval,
            "verdict": verdict(c.interval),
        }
        for name in names
        for c in compared[name]
    ]
    return rows, each


def draw(evaluation: Evaluation, names: Sequence[str], path: Path) -> None:
    """Plot all policies in one colour over the baselines, the first with its 95 % band."""
    baselines = [point for point in evaluation.points if point.method not in names]
    first = [replace(point, method=POLICY) for point in evaluation.points if point.method == names[0]]
    shown = replace(evaluation, points=first + baselines)
    figure = new_figure(width=6.5, height=5.5)
    axes = figure.add_subplot()
    draw_curve(axes, shown, "latency", f"Accuracy over measured time, {len(names)} policies")
    for name in names[1:]:
        points = sorted((p for p in evaluation.points if p.method == name), key=lambda point: point.latency)
        axes.plot([p.latency for p in points], [p.quality for p in points], color=ACCENT, linewidth=1.4, zorder=5)
    legend_below(figure, shown, columns=3)
    write_png(figure, path)


def sweep(recipe: Recipe, policies: Mapping[str, Policy], args: argparse.Namespace) -> tuple[Evaluation, Any]:
    """Measure all policies and baselines, in alternation with the native model."""
    backbone, task = prepare(recipe)
    test = task.test.at_most(args.examples)
    first = next(iter(policies.values()))
    points = [point for name, policy in policies.items() for point in points_of(name, policy, recipe, backbone)]
    # All seeds start from the same policy, so one untrained policy is enough.
    points += policy_points(backbone, first, (), untrained=recipe.evaluation.cost_weights)
    schedules = first.layers, usual_layers(backbone.depth)
    points += baseline_points(backbone, recipe.evaluation.methods, args.keep_rates, *schedules)
    console.print(f"measuring {len(points)} operating points on {len(test)} test inputs")
    flops, batch = FlopsCost.count(backbone.layers), recipe.evaluation.batch_size
    found = measure(
        backbone,
        points,
        test,
        flops,
        name=recipe.model.source,
        batch_size=batch,
        repeats=args.rounds,
        gallery=0,
        threads=args.threads,
    )
    return found, backbone


def main() -> None:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"), help="folder for the trained runs")
    parser.add_argument("--runs", type=Path, nargs="+", help="finished runs to measure instead of training")
    parser.add_argument("--set", action="append", default=[], help="change the demo's recipe: learner.rollouts=2048")
    parser.add_argument(
        "--keep-rates", type=float, nargs="+", default=list(KEEP_RATES), help="keep rates of the baselines"
    )
    parser.add_argument("--latencies", type=float, nargs="+", default=list(COSTS))
    parser.add_argument("--examples", type=int, help="largest number of test images")
    args = begin(parser)
    trained = [] if args.runs else [train(seed, args.folder / f"seed-{seed}", args) for seed in args.seeds]
    runs = args.runs or [Path(entry["run"]) for entry in trained]
    loaded = [load_policy(run / POLICY_FOLDER) for run in runs]
    recipes = [Recipe.model_validate(policy.recipe) for policy in loaded]
    policies = {f"policy seed {recipe.learner.seed}": policy for recipe, policy in zip(recipes, loaded, strict=True)}
    if len(policies) < len(loaded):
        raise SystemExit("two runs have the same seed: pass runs with different seeds")
    evaluation, backbone = sweep(recipes[0], policies, args)
    rows, each = at_equal_latency(evaluation, list(policies), args.latencies)
    more = {
        "dense_accuracy": evaluation.dense_quality,
        "training": trained,
        "each": each,
        "hypervolumes": evaluation.hypervolumes(),
    }
    for entry in trained:
        console.print(f"{entry['run']}: {entry['minutes']:.1f} minutes, {entry['peak GB']:.2f} GB at most")
    finish(args, backbone, rows, **more)
    if args.out:
        write_json(evaluation, args.out.with_name(f"{args.out.stem}-points.json"))
        draw(evaluation, list(policies), args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
