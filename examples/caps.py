"""Accuracy and measured time of policies, baselines and the native model at several caps on a text's length.

    python -m examples.caps --runs runs/spam/seed-* --out runs/spam/caps.json

At every cap, the test texts are truncated to that number of tokens, and one sweep measures everything on them, in
alternation with the native model. The policies are those of the runs, trained at full length. The results of each sweep
are written beside --out in the format of `rltr evaluate`, with a digest of models, policies, texts and settings in the
file name (caps-512-1f0c….json). The next run reads them again, so an interrupted measurement can be continued.

Columns of the table:

native     the unpruned model. Truncation saves time, too: compare rows of different caps.
packed     the reduced forward pass with every token kept: the gain from not computing padding alone.
policy     speed-up over native where the accuracy is --max-drop below the native one at the same cap, read off the
           curve: linear interpolation between measured points on the Pareto front, without extrapolation below the
           cheapest point. The mean over the runs, with the lowest and the highest.
baseline   the same for the best of all baselines, including the untrained policy.
chosen     what a user gets without knowing the test texts: each policy at the cost weight that its calibration on the
           validation split, at full length, gives for the same drop.

A plot of these times over the cap is written beside --out; "growth" in the JSON file is each time at the highest cap
over that at the lowest. --long takes only texts with at least as many tokens as the highest cap: then no native pass
computes padding, and cap and length are the same. "equal latency" compares the policies with the best baseline at the
highest cap, as `benchmarks.learning` does; "equal latency, agreement" compares the fraction of the native model's
answers that do not change, which depends less on chance, because a changed answer may also become right.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.learning import at_equal_latency, usual_layers
from benchmarks.results import begin, console, finish, options
from examples.assets import sha256
from rltr.cost import FlopsCost
from rltr.deploy import Policy, load_policy, weight_for_drop
from rltr.errors import RltrError
from rltr.evaluate import Evaluation, OperatingPoint, baseline_points, measure, policy_points, read_json, write_json
from rltr.evaluate.pareto import Point, pareto_front, quality_at
from rltr.evaluate.standard_points import evenly_spaced
from rltr.jobs.preparation import prepare
from rltr.recipe import Recipe
from rltr.report.style import ACCENT, INK, OTHERS, dress, new_figure, write_png
from rltr.runtime.backbone import Backbone
from rltr.system.folders import POLICY_FILE, POLICY_FOLDER
from rltr.tasks import Examples
from rltr.tasks.examples.base import Subset, digest
from rltr.tasks.examples.texts import TextExamples

TIMED = ("native", "packed", "policy", "baseline")
"""The timed columns of the table."""
LATENCIES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
"""Relative latencies at which the policies are compared with the baselines."""


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        name: method name of its operating points.
        policy: the trained policy.
        recipe: recipe of the training.
        chosen: the cost weight that its calibration gives for the accepted drop; None if there is none.
    """

    name: str
    policy: Policy
    recipe: Recipe
    chosen: float | None

    @classmethod
    def load(cls, run: Path, max_drop: float) -> "Trained":
        """Read the policy of a run's folder."""
        policy = load_policy(run / POLICY_FOLDER)
        recipe = Recipe.model_validate(policy.recipe)
        try:
            chosen = weight_for_drop(policy.calibration, max_drop)
        except RltrError as error:
            console.print(f"[yellow]{run}: {error}")
            chosen = None
        return cls(f"policy seed {recipe.learner.seed}", policy, recipe, chosen)

    def points(self, backbone: Backbone, weights: Sequence[float]) -> list[OperatingPoint]:
        """Operating points of the policy at the given cost weights and at the chosen one."""
        self.policy.check_fits(backbone)
        weights = sorted({*weights, *([self.chosen] if self.chosen else [])})
        return [replace(point, method=self.name) for point in policy_points(backbone, self.policy, weights)]


def truncate(test: Examples, cap: int, shortest: int | None) -> TextExamples:
    """Truncate the texts of a split to ``cap`` tokens.

    Args:
        test: the texts.
        cap: number of tokens, including special ones.
        shortest: leave out texts that have fewer tokens before truncation; None keeps all.
    """
    index, whole = torch.arange(len(test)), test
    while isinstance(whole, Subset):  # a split of one file, or a limited number of examples
        index, whole = whole.index[index], whole.examples
    if not isinstance(whole, TextExamples):
        raise SystemExit("caps: error: only texts can be truncated; pass runs that were trained on texts")
    lengths = whole.lengths()
    rows = [i for i in index.tolist() if shortest is None or lengths[i] >= shortest]
    if not rows:
        raise SystemExit(f"caps: error: no test text has {shortest} tokens; leave out --long or lower the highest cap")
    made = TextExamples([whole.texts[i] for i in rows], whole.labels[rows], whole.classes, whole.tokenizer, cap)
    made.goal = whole.goal
    return made


def time_at(points: Sequence[Point], accuracy: float) -> float | None:
    """Lowest cost at which a curve reaches an accuracy; None if it never does.

    Args:
        points: pairs of cost and accuracy. Their Pareto front is interpolated linearly, and not extrapolated below the
            lowest measured cost.
        accuracy: the accuracy to reach, 0 to 1.
    """
    front = [points[i] for i in pareto_front(points)]
    if not front or front[-1][1] < accuracy:
        return None
    if front[0][1] >= accuracy:
        return front[0][0]
    for (cheap, low), (dear, high) in pairwise(front):
        if low < accuracy <= high:
            return cheap + (dear - cheap) * (accuracy - low) / (high - low)
    raise AssertionError("an accuracy within the range of the front must lie between two neighbouring points")


def row_of(cap: int, found: Evaluation, runs: Sequence[Trained], max_drop: float) -> dict[str, Any]:
    """Build one row of the table; a speed-up is None where no measured point is accurate enough."""
    names = [run.name for run in runs]
    times = {series: time_at(points, found.dense_quality - max_drop) for series, points in found.curves().items()}
    policies = [times[series] for name in names for series in times if series.startswith(f"{name} ")]
    own = [1 / taken for taken in policies if taken is not None]
    others = {
        series: 1 / taken
        for series, taken in times.items()
        if taken is not None and series != "none" and not any(series.startswith(f"{name} ") for name in names)
    }
    best = max(others, key=lambda series: others[series], default=None)
    packed = next(point for point in found.points if point.method == "none")
    chosen = [p for run in runs for p in found.points if p.method == run.name and p.setting == run.chosen]
    # No mean if a seed is never accurate enough: leaving it out would make the policy look better.
    complete = len(own) == len(runs)
    return {
        "cap": cap,
        "tokens, padded": found.tokens,
        "tokens": packed.kept[0],
        "native accuracy": found.dense_quality,
        "native ms": found.native_milliseconds,
        "packed": 1 / packed.latency,
        "policy": mean(own) if complete else None,
        "lowest": min(own) if complete else None,
        "highest": max(own) if complete else None,
        "baseline": None if best is None else others[best],
        "its name": best,
        "chosen": mean(1 / point.latency for point in chosen) if len(chosen) == len(runs) else None,
        "its accuracy": mean(point.quality for point in chosen) if len(chosen) == len(runs) else None,
    }


def milliseconds(row: Mapping[str, Any], name: str) -> float | None:
    """Milliseconds per text of one of :data:`TIMED`; None where no measured point is accurate enough."""
    speedup = 1.0 if name == "native" else row[name]
    return None if speedup is None else row["native ms"] / speedup


def growth(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Ratio of each time at the last row's cap to that at the first row's."""
    found = {}
    for name in TIMED:
        first, last = (milliseconds(row, name) for row in (rows[0], rows[-1]))
        found[name] = None if first is None or last is None else last / first
    return found


def agreements(found: Evaluation, names: Sequence[str], latencies: Sequence[float]) -> list[dict[str, Any]]:
    """Fraction of the native model's answers that do not change, by latency: policies' mean and best baseline."""
    curves = {
        series: quality_at(latencies, [(point.latency, point.agreement) for point in points])
        for series, points in found.series().items()
    }
    own = [series for series in curves if any(series.startswith(f"{name} ") for name in names)]
    rows = []
    for place, latency in enumerate(latencies):
        mine = [value for series in own if (value := curves[series][place]) is not None]
        others = {
            series: value
            for series, values in curves.items()
            if series not in own and (value := values[place]) is not None
        }
        best = max(others, key=lambda series: others[series], default=None)
        complete = len(mine) == len(names)
        rows.append(
            {
                "latency": latency,
                "policy": mean(mine) if complete else None,
                "lowest": min(mine) if complete else None,
                "highest": max(mine) if complete else None,
                "best baseline": best,
                "its agreement": None if best is None else others[best],
            }
        )
    return rows


def draw(rows: Sequence[Mapping[str, Any]], max_drop: float, path: Path) -> None:
    """Plot time over the cap; the band is from the fastest to the slowest policy."""
    figure = new_figure(width=6.0)
    axes = figure.add_subplot()
    dress(axes, "Time over length", "truncated to, tokens", "milliseconds per text")
    colours = dict(zip(TIMED, (INK, OTHERS[0], ACCENT, OTHERS[1]), strict=True))
    labels = {"policy": f"policy, {100 * max_drop:g} point less", "baseline": f"best baseline, {100 * max_drop:g} less"}
    caps = [row["cap"] for row in rows]

    def drawn(name: str) -> list[float]:
        """Times by cap; NaN, a gap in the line, where no measured point is accurate enough."""
        return [math.nan if (taken := milliseconds(row, name)) is None else taken for row in rows]

    for name, colour in colours.items():
        axes.plot(caps, drawn(name), "o-", color=colour, label=labels.get(name, name))
    low, high = (drawn(end) for end in ("highest", "lowest"))
    axes.fill_between(caps, low, high, color=ACCENT, alpha=0.18, linewidth=0)
    axes.set_xticks(caps)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK)
    write_png(figure, path)


def sweep(
    points: Sequence[OperatingPoint], texts: Examples, backbone: Backbone, name: str, args: Any, file: Path | None
) -> Evaluation:
    """Measure all points on texts, or read the results of an earlier run."""
    if file and file.exists():
        console.print(f"{file}: using the results of an earlier run")
        return read_json(file)
    console.print(f"measuring {len(points)} operating points on {len(texts)} texts")
    found = measure(
        backbone,
        points,
        texts,
        FlopsCost.count(backbone.layers),
        name=name,
        batch_size=args.batch,
        repeats=args.rounds,
        threads=args.threads,
        gallery=0,
    )
    if file:
        write_json(found, file)
    return found


def main() -> None:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of finished trainings")
    parser.add_argument("--caps", type=int, nargs="+", default=[64, 128, 256, 512], help="tokens to truncate texts to")
    parser.add_argument("--batch", type=int, default=32, help="texts per pass (default 32)")
    parser.add_argument("--max-drop", type=float, default=0.01, help="accepted loss of accuracy (default 0.01)")
    parser.add_argument("--examples", type=int, help="largest number of test texts")
    parser.add_argument(
        "--long", action="store_true", help="only texts with at least as many tokens as the highest cap"
    )
    parser.add_argument("--cost-weights", type=float, nargs="+", help="of the policies (default: those of the recipe)")
    parser.add_argument("--keep-rates", type=float, nargs="+", help="of the baselines (default: those of the recipe)")
    parser.add_argument(
        "--more-layers", action="store_true", help="also run baselines at other decision layers; takes twice as long"
    )
    args = begin(parser)
    runs = [Trained.load(run, args.max_drop) for run in args.runs]
    if len({run.name for run in runs}) < len(runs):
        raise SystemExit("caps: error: two runs have the same seed; pass runs with different seeds")
    first = runs[0]
    recipe = first.recipe
    backbone, task = prepare(recipe)
    weights = args.cost_weights or recipe.evaluation.cost_weights
    points = [point for run in runs for point in run.points(backbone, weights)]
    # All seeds start from the same policy, so one untrained policy is enough.
    points += policy_points(backbone, first.policy, (), untrained=evenly_spaced(weights, 5))
    schedules = [first.policy.layers, *([usual_layers(backbone.depth)] if args.more_layers else [])]
    rates = args.keep_rates or recipe.evaluation.keep_rates
    points += baseline_points(backbone, recipe.evaluation.methods, rates, *schedules)
    settings = [(point.series, point.setting) for point in points], args.batch, args.rounds, args.threads
    weights_of_runs = [sha256(run / POLICY_FOLDER / POLICY_FILE) for run in args.runs]
    identity = digest([backbone.fingerprint, *weights_of_runs, repr(settings)])
    rows = []
    for cap in sorted(args.caps):
        texts = truncate(task.test, cap, max(args.caps) if args.long else None).at_most(args.examples)
        same = digest([identity, str(texts.fingerprint())])[:12]
        file = args.out and args.out.with_name(f"{args.out.stem}-{cap}-{same}.json")
        found = sweep(points, texts, backbone, first.policy.backbone["name"], args, file)
        rows.append(row_of(cap, found, runs, args.max_drop))
    names = [run.name for run in runs]
    equal, each = at_equal_latency(found, names, LATENCIES)
    judged = {"equal latency": equal, "each": each, "equal latency, agreement": agreements(found, names, LATENCIES)}
    if args.out:
        draw(rows, args.max_drop, args.out.with_suffix(".png"))
    finish(args, backbone, rows, growth=growth(rows), **judged)


if __name__ == "__main__":
    try:
        main()
    except RltrError as error:
        raise SystemExit(f"caps: error: {error}") from None
