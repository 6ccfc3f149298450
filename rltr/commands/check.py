"""``rltr check``: check that a policy, or a model, is exact and fast on this machine."""

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

    For a policy: with all tokens kept, the outputs must equal the native model's; times are compared with the native
    model; and the loss of quality must not be significantly larger than in the calibration. If the training data is
    not available, random inputs are used, and quality is not checked. For a model: whether rltr can run it with fewer
    tokens, exactly. Exit code 1 if outputs are not exact or too much quality is lost, 2 if the model is refused.

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
            raise RltrError(f"--model and --data are for a policy's folder, but {target!r} is a model")
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
        raise RltrError("--tower is for a model; leave it out, as the policy stores which part of its model is reduced")
    policy_config(policy)
    values = given({"model.source": model, "data.source": data, "device": device, "threads": threads})
    from rltr.jobs.check import run_check

    if not run_check(policy, values):
        typer.echo("rltr: check failed: do not use this policy here; the last lines above say why", err=True)
        raise typer.Exit(1)


def _is_model(target: Path) -> bool:
    """Whether this is the folder of a saved model, or not a folder, and so a hub id."""
    if not target.exists():
        return True
    # A policy's config also has a model_type, that of its backbone. A folder with neither is treated as a policy.
    config = target / "config.json"
    # The limit is larger than for policies, because a model's config may list many thousands of classes.
    text = read_regular(config, 64 * LARGEST_CONFIG) if config.exists() else b""
    return b'"model_type"' in text and b'"backbone"' not in text
