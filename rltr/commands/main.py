"""The command ``rltr``. Each subcommand parses its options, checks them early, and calls a function of ``rltr.jobs``.

Slow imports (torch, transformers, the jobs) are inside the commands, so that ``rltr --help`` is fast.
"""

import sys
import threading
from typing import Annotated

import typer

from rltr.commands.calibrate import calibrate_policy
from rltr.commands.check import check
from rltr.commands.demo import demo
from rltr.commands.evaluate import evaluate
from rltr.commands.export import export
from rltr.commands.group import Commands, tell_of_thread
from rltr.commands.probe import probe
from rltr.commands.recipe import show_recipe
from rltr.commands.train import train
from rltr.system.interruption import listen
from rltr.system.memory import keep_freed_memory
from rltr.version import __version__

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"rltr {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Make a frozen transformer cheaper: learn which tokens it needs, and run it on those.

    \b
    First look:      rltr demo --quick
    Your own model:  rltr train --model my-vit --data photos --out runs/photos
    Its curve:       rltr evaluate --policy runs/photos/policy
    Every setting:   rltr recipe
    """


app.command()(demo)
app.command()(train)
app.command()(evaluate)
app.command()(export)
app.command()(check)
app.command("calibrate")(calibrate_policy)
app.command()(probe)
app.command("recipe")(show_recipe)


def main() -> None:
    """Run the command line; the entry point of ``rltr``."""
    if hasattr(sys.stdout, "reconfigure"):
        # A class name with an accent must not end hours of work on a terminal without UTF-8.
        sys.stdout.reconfigure(errors="replace")
    threading.excepthook = tell_of_thread
    listen()
    keep_freed_memory()  # so that measured times do not depend on when memory is returned to the system
    app(prog_name="rltr")
