"""``rltr calibrate``: measure a policy's prices and operating points again."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rltr.commands.early import policy_config
from rltr.commands.options import DataOption, DeviceOption, ModelOption, OutOption, ThreadsOption, given
from rltr.errors import RltrError
from rltr.system.files import at_home
from rltr.system.folders import POLICY_FILE, check_out


def calibrate_policy(
    policy: Annotated[Path, typer.Argument(help="A policy's folder.", show_default=False)],
    out: OutOption = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the policy by the calibrated one.")] = False,
    model: ModelOption = None,
    data: DataOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Calibrate a policy again, on this machine or on your data.

    Budgets are then fractions of this machine's time. The network is not changed. The folder is written atomically.
    Takes about a minute, and fails if the machine is too busy to measure times.

    \b
    Examples:
      rltr calibrate my-policy --out my-policy-here
      rltr calibrate my-policy --in-place --threads 1
      rltr calibrate my-policy --out for-my-data --data other-photos
    """
    policy = at_home(policy)
    policy_config(policy)
    if (out is None) != in_place:
        raise RltrError("name the folder for the calibrated policy with --out, or give --in-place to replace this one")
    target = policy if out is None else at_home(out)
    check_out(target, marker=POLICY_FILE, replace=True)
    values = given({"model.source": model, "data.source": data, "device": device, "threads": threads})
    from rltr.jobs.calibrate import run_calibrate

    run_calibrate(policy, target, values)
    typer.echo(f"calibrated; next: rltr check {shlex.quote(str(target))}")
