"""How commands end: what a user can mend is one line and an exit code, a bug keeps its traceback."""

import os
import threading
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from rltr.commands.messages import shown
from rltr.errors import RltrError
from rltr.system.files import NO_ROOM
from rltr.system.interruption import exit_code


class Commands(TyperGroup):
    """Turns what a user can mend into one line and exit code 2, an interruption into 130, or 143 if it was SIGTERM.

    Bugs keep their traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with shown():
                return super().invoke(ctx)
        except RltrError as error:
            if os.environ.get("RLTR_DEBUG") == "1":
                raise
            typer.echo(f"rltr: error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            # Writing to a file that is open, such as a log, does not say which one it was.
            if os.environ.get("RLTR_DEBUG") == "1" or not (error.filename or no_room(error)):
                raise
            where = error.filename or "the results cannot be written"
            typer.echo(f"rltr: error: {where}: {error.strerror}; is there room, and may you write?", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            with suppress(OSError):  # of a terminal that was closed
                typer.echo(f"rltr: interrupted{''.join(map(str, stop.args))}", err=True)
            raise typer.Exit(exit_code(stop)) from None


def no_room(error: OSError) -> bool:
    """Whether a disk is full; the module tempfile then finds no place to write to, and says so with another number."""
    return error.errno in NO_ROOM or "No usable temporary directory" in str(error)


def tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """A full disk in a thread (TensorBoard writes in one) is a line as well; the thread that is waiting for it ends."""
    if isinstance(failed.exc_value, OSError) and no_room(failed.exc_value):
        typer.echo(f"rltr: a log cannot be written: {failed.exc_value.strerror}", err=True)
    else:
        threading.__excepthook__(failed)
