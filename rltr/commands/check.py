"""``rltr check``: is a policy, or a model, exact and fast on this machine?"""

from pathlib import Path
from typing import Annotated

import typer

from rltr.commands.early import policy_config
from rltr.commands.options import DataOption, DeviceOption, ModelOption, ThreadsOption, given
from rltr.errors import RltrError
from rltr.system.files import at_home
from rltr.system.reading import LARGEST_CONFIG, read_regular


def check(
    target: Annotated[
        str, typer.Argument(help="A policy's folder, or a model's folder or hub id.", show_default=False)
    ],
    model: ModelOption = None,
    data: DataOption = None,
    tower: Annotated[
        str | None, typer.Option(help="Part of the model that is reduced, e.g. vision_model.", show_default=False)
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Check a policy, or a model, on this machine: exactness and real speed.

    A policy: with everything kept, the outputs must be the native ones; it is timed beside the native model, and must
    not lose surely more than its calibration promised. Where the data it was trained on is not at hand, random inputs
    do for all but that. A model: can rltr run it with fewer tokens, and exactly? Exit code 1 if anything is not exact
    or a promise is broken, 2 if the model is refused, with the reason.

    \b
    Examples:
      rltr check my-policy
      rltr check my-policy --model my-vit --data photos --threads 1
      rltr check google/vit-base-patch16-224
      rltr check my-clip --tower vision_model
    """
    from rltr.recipe import EMBEDDED

    if target == EMBEDDED or _is_model(at_home(Path(target))):
        if model or data:
            raise RltrError(f"--model and --data go with a policy's folder, and {target!r} is none")
        from rich.console import Console

        from rltr.jobs.check import run_model_check

        report = run_model_check(target, tower, device or "auto", threads)
        Console().print(report.table())
        if not report.holds:
            typer.echo("rltr: check failed: this model is not exact with fewer tokens on this machine", err=True)
            raise typer.Exit(1)
        return
    policy = at_home(Path(target))
    if tower:
        raise RltrError("--tower goes with a model: a policy knows which part of its model is reduced")
    policy_config(policy)
    values = given({"model.source": model, "data.source": data, "device": device, "threads": threads})
    from rltr.jobs.check import run_check

    if not run_check(policy, values):
        typer.echo("rltr: check failed: do not use this policy here; the last lines above say why", err=True)
        raise typer.Exit(1)


def _is_model(target: Path) -> bool:
    """Whether this is a saved model's folder, or can only be a hub id."""
    if not target.exists():
        return True
    # A policy's config says model_type as well, of its backbone; and what says neither was meant to be a policy.
    config = target / "config.json"
    # A model's config may name many thousands of classes.
    text = read_regular(config, 64 * LARGEST_CONFIG) if config.exists() else b""
    return b'"model_type"' in text and b'"backbone"' not in text
