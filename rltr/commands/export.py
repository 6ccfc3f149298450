"""``rltr export``: write the policy of a run to a separate folder."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rltr.errors import RltrError
from rltr.system.files import at_home
from rltr.system.folders import POLICY_FILE, RECIPE_FILE, check_out


def export(
    run: Annotated[Path, typer.Option("--run", help="The folder of a training run.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the policy.", show_default=False)],
) -> None:
    """Write the policy of a run to a folder for rltr.attach.

    \b
    Example:
      rltr export --run runs/photos --out my-policy
    """
    run, out = at_home(run), at_home(out)
    if not (run / RECIPE_FILE).is_file():
        raise RltrError(
            f"--run {str(run)!r} is not a run's folder ({RECIPE_FILE} is missing); name a folder that train wrote to"
        )
    check_out(out, marker=POLICY_FILE, replace=True)
    from rltr.jobs.export import run_export

    run_export(run, out)
    typer.echo(f"exported; next: rltr check {shlex.quote(str(out))}")
