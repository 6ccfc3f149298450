"""Accuracy and measured time of policies, baselines and the native model at several caps on a text's length.

    python -m examples.caps --runs runs/spam/seed-* --out runs/spam/caps.json

At every cap the texts of the test split are cut to so many tokens, and one sweep measures everything on them, in
alternation with the native model. The policies are those of the runs, trained at the whole length. Each sweep's own
results are written beside --out when it is done, in the format of `rltr evaluate`, under a name that tells by a digest
of what they are (caps-512-1f0c….json), and read again by the next run, so an interrupted one goes on.

Columns of the table:

native     the model as it is. Cutting saves time, too: compare rows of different caps.
packed     the reduced forward with every token kept: what is gained by computing no padding, and by nothing else.
policy     speed-up over native where the accuracy is --max-drop below the native one at the same cap, read off the
           curve: straight lines between measured points on the Pareto front, and no more than the cheapest measured
           point shows. The mean over the runs, with the lowest and the highest.
baseline   the same of the best of all baselines, the untrained policy included.
chosen     what a user gets who has not seen the test texts: each policy at the weight that its own calibration on the
           validation split, at the whole length, gives for the same drop.

A figure of these times over the cap is drawn beside --out; "growth" in the JSON file is each time at the highest cap
over that at the lowest. --long takes only texts of at least as many tokens as the highest cap: then no native pass
computes padding, and cap and length are the same. "equal latency" judges the policies beside the best baseline at the
highest cap, as `benchmarks.learning` does; "equal latency, agreement" has the share of the native model's own answers
that stay, which has less chance in it: an answer that changes may also become right.
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
"""What is timed, as in the table."""
LATENCIES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
"""Relative latencies at which the policies are compared with the baselines."""


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        name: what its points are called.
        policy: its policy.
        recipe: what it was trained by.
        chosen: the cost weight its calibration gives for the accepted drop; None if it gives none.
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
        """The policy at so many weights, and at the chosen one."""
        self.policy.check_fits(backbone)
        weights = sorted({*weights, *([self.chosen] if self.chosen else [])})
        return [replace(point, method=self.name) for point in policy_points(backbone, self.policy, weights)]


def cut(test: Examples, cap: int, longest: int | None) -> TextExamples:
    """The texts of a split, each cut to ``cap`` tokens.

    Args:
        test: texts.
        cap: tokens, special ones included.
        longest: leave out texts of fewer tokens than this; None for all.
    """
    index, whole = torch.arange(len(test)), test
    while isinstance(whole, Subset):  # a share of one file, or at most so many of a split
        index, whole = whole.index[index], whole.examples
    if not isinstance(whole, TextExamples):
        raise SystemExit("caps: error: only texts can be cut; name runs whose data are texts")
    lengths = whole.lengths()
    rows = [i for i in index.tolist() if longest is None or lengths[i] >= longest]
    if not rows:
        raise SystemExit(f"caps: error: no test text has {longest} tokens; leave out --long or lower the highest cap")
    made = TextExamples([whole.texts[i] for i in rows], whole.labels[rows], whole.classes, whole.tokenizer, cap)
    made.goal = whole.goal
    return made


def time_at(points: Sequence[Point], accuracy: float) -> float | None:
    """The least cost at which a curve reaches an accuracy; None if it never does.

    Args:
        points: pairs of cost and accuracy. Between members of their Pareto front straight lines hold, and nothing is
            said of costs below the lowest one measured.
        accuracy: 0 to 1.
    """
    front = [points[i] for i in pareto_front(points)]
    if not front or front[-1][1] < accuracy:
        return None
    if front[0][1] >= accuracy:
        return front[0][0]
    for (cheap, low), (dear, high) in pairwise(front):
        if low < accuracy <= high:
            return cheap + (dear - cheap) * (accuracy - low) / (high - low)
    raise AssertionError("an accuracy between the ends lies between two neighbours")


def row_of(cap: int, found: Evaluation, runs: Sequence[Trained], max_drop: float) -> dict[str, Any]:
    """One line of the table; a speed-up is None where no measured point is that accurate."""
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
    complete = len(own) == len(runs)  # a seed that is never that accurate must not be left out of a mean
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
    """Time per text of one of :data:`TIMED`; None where no measured point is that accurate."""
    speedup = 1.0 if name == "native" else row[name]
    return None if speedup is None else row["native ms"] / speedup


def growth(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Each time at the last row's cap over that at the first's."""
    found = {}
    for name in TIMED:
        first, last = (milliseconds(row, name) for row in (rows[0], rows[-1]))
        found[name] = None if first is None or last is None else last / first
    return found


def agreements(found: Evaluation, names: Sequence[str], latencies: Sequence[float]) -> list[dict[str, Any]]:
    """The share of the native model's answers that stay: mean over the policies, and the best baseline, by latency."""
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
    """Time over the length that texts are cut to; the band is from the fastest to the slowest policy."""
    figure = new_figure(width=6.0)
    axes = figure.add_subplot()
    dress(axes, "Time over length", "cut at, tokens", "milliseconds per text")
    colours = dict(zip(TIMED, (INK, OTHERS[0], ACCENT, OTHERS[1]), strict=True))
    labels = {"policy": f"policy, {100 * max_drop:g} point less", "baseline": f"best baseline, {100 * max_drop:g} less"}
    caps = [row["cap"] for row in rows]

    def drawn(name: str) -> list[float]:
        """Lines break where nothing measured is that accurate."""
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
    """Measure all points on texts, or read what an earlier run measured."""
    if file and file.exists():
        console.print(f"{file}: measured before")
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
    parser.add_argument("--caps", type=int, nargs="+", default=[64, 128, 256, 512], help="tokens of a text")
    parser.add_argument("--batch", type=int, default=32, help="texts per pass (default 32)")
    parser.add_argument("--max-drop", type=float, default=0.01, help="accepted loss of accuracy (default 0.01)")
    parser.add_argument("--examples", type=int, help="at most so many test texts")
    parser.add_argument("--long", action="store_true", help="only texts that fill the highest cap")
    parser.add_argument("--cost-weights", type=float, nargs="+", help="of the policies (default: the recipe's)")
    parser.add_argument("--keep-rates", type=float, nargs="+", help="of the baselines (default: the recipe's)")
    parser.add_argument(
        "--more-layers", action="store_true", help="baselines also at other decision layers: twice as long"
    )
    args = begin(parser)
    runs = [Trained.load(run, args.max_drop) for run in args.runs]
    if len({run.name for run in runs}) < len(runs):
        raise SystemExit("caps: error: two of the runs have the same seed; name runs of different seeds")
    first = runs[0]
    recipe = first.recipe
    backbone, task = prepare(recipe)
    weights = args.cost_weights or recipe.evaluation.cost_weights
    points = [point for run in runs for point in run.points(backbone, weights)]
    # Before training, all seeds are the same policy.
    points += policy_points(backbone, first.policy, (), untrained=evenly_spaced(weights, 5))
    schedules = [first.policy.layers, *([usual_layers(backbone.depth)] if args.more_layers else [])]
    rates = args.keep_rates or recipe.evaluation.keep_rates
    points += baseline_points(backbone, recipe.evaluation.methods, rates, *schedules)
    settings = [(point.series, point.setting) for point in points], args.batch, args.rounds, args.threads
    weights_of_runs = [sha256(run / POLICY_FOLDER / POLICY_FILE) for run in args.runs]
    identity = digest([backbone.fingerprint, *weights_of_runs, repr(settings)])
    rows = []
    for cap in sorted(args.caps):
        texts = cut(task.test, cap, max(args.caps) if args.long else None).at_most(args.examples)
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
