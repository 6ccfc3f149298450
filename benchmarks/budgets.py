"""Accuracy of budgets: the requested `budget=`, and the measured time of the policy at it, on the test split.

For each policy and budget, the cost weight is looked up, and the policy and the native model are run on the test split.
By default, a policy for the embedded model is trained with the quick recipe; for MiniLM, pass the policy of an example
(`examples/README.md`). --calibrate measures prices and times first, as `rltr calibrate` does. Without it,
budgets are fractions of the time on the machine where the policy was trained.

Goal: measured time within 0.03 of the budget, at budgets from 0.4 to 0.9 that the policy was calibrated for.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.results import begin, console, finish, options
from rltr.cost import FlopsCost
from rltr.cost.rounds import CLOCK, Clock
from rltr.deploy import load_policy, weight_for_budget
from rltr.deploy.calibration import monotone
from rltr.evaluate import measure, policy_points
from rltr.jobs.calibrate import run_calibrate
from rltr.jobs.preparation import prepare
from rltr.jobs.training import run_train
from rltr.recipe import load_recipe, stored_recipe

WITHIN = 0.03
"""Largest accepted distance of the measured time from the budget, as a fraction of the native time."""


def measure_one(folder: Path, args: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Measure one policy; return its backbone and one row per budget."""
    policy = load_policy(folder)
    recipe = load_recipe(stored_recipe(policy.recipe, str(folder)).model_dump(mode="json"), (), {})
    backbone, task = prepare(recipe)
    falling = monotone(policy.calibration)
    if falling[0].time is None:
        console.print(f"{folder}: calibrated in FLOPs, not in time, so budgets are fractions of FLOPs")
    possible = [budget for budget in args.budget if falling[-1].share <= budget <= falling[0].share]
    for budget in sorted(set(args.budget) - set(possible)):
        console.print(f"budget {budget} left out: calibrated for {falling[-1].share:.2f} to {falling[0].share:.2f}")
    if not possible:
        return backbone, []
    weights = [weight_for_budget(policy.calibration, budget) for budget in possible]
    test = task.test.at_most(args.examples)
    found = measure(
        backbone,
        policy_points(backbone, policy, weights),
        test,
        FlopsCost.count(backbone.layers),
        name=policy.backbone["name"],
        batch_size=getattr(policy.cost, "rows", 64),
        repeats=args.rounds,
        gallery=0,
        native_every=2,
        clock=args.clock,
    )
    return backbone, [
        {
            "model": Path(policy.backbone["name"]).name,
            "budget": budget,
            "cost weight": weight,
            "measured": point.latency,
            "95 %": point.latency_interval,
            "off by": point.latency - budget,
            "met": abs(point.latency - budget) <= WITHIN,
            "FLOPs": point.flops,
            "predicted": point.predicted,
        }
        for budget, weight, point in zip(possible, weights, found.points, strict=True)
    ]


def main() -> None:
    parser = options(__doc__, rounds=2)
    parser.add_argument("--policy", type=Path, nargs="+", help="policy folders (default: train one for a minute)")
    parser.add_argument("--budget", type=float, nargs="+", default=[0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    parser.add_argument("--examples", type=int, default=512, help="test inputs (default 512)")
    parser.add_argument("--calibrate", action="store_true", help="measure prices and times first")
    parser.add_argument("--cpu-clock", action="store_true", help="calibrate with processor time of one thread")
    args = begin(parser)
    if args.cpu_clock:
        torch.set_num_threads(1)
    args.clock = Clock(wall=time.process_time) if args.cpu_clock else CLOCK
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as work:
        folders = args.policy
        if not folders:
            values = {"out": Path(work) / "run", "threads": torch.get_num_threads(), "data.validation_limit": 256}
            folders = [run_train(load_recipe("quick", (), values)).policy_folder]
        for number, folder in enumerate(folders):
            chosen = folder
            if args.calibrate or args.cpu_clock:
                chosen = Path(work) / str(number)
                run_calibrate(folder, chosen, {"threads": torch.get_num_threads()}, args.clock)
            backbone, found = measure_one(chosen, args)
            rows += found
    off = max((abs(row["off by"]) for row in rows), default=0.0)
    console.print(f"largest distance {off:.3f} (goal: {WITHIN}): {'met' if rows and off <= WITHIN else 'not met'}")
    del args.clock  # not a setting to store
    if rows:
        finish(args, backbone, rows, worst=off)


if __name__ == "__main__":
    main()
