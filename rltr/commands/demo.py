"""``rltr demo``: train, measure and export a policy for the embedded model and data."""

import sys
from typing import Annotated

import typer

from rltr.commands.early import refuse_early
from rltr.commands.options import DeviceOption, OutOption, SeedOption, SetOption, ThreadsOption, given
from rltr.system.folders import DEMO_FILE, check_out


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="One minute instead of eight: far fewer rollouts.")] = False,
    out: OutOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    changes: SetOption = None,
) -> None:
    """Train, measure and export a policy on the built-in example.

    Writes a report (report.html), the measurements and the policy to --out (default: rltr-demo), and replaces those of
    an earlier demo. Needs no network.

    \b
    Examples:
      rltr demo --quick
      rltr demo --out my-demo --seed 1
    """
    from rltr.recipe import load_recipe

    values = given({"out": out, "learner.seed": seed, "device": device, "threads": threads})
    recipe = load_recipe("quick" if quick else "demo", changes or (), values)
    check_out(recipe.out, marker=DEMO_FILE, replace=True)
    refuse_early(recipe)
    from rltr.jobs.demo import run_demo

    run_demo(recipe, quick, progress=sys.stdout.isatty())
