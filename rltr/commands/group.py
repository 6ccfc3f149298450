"""Error handling of all commands: errors that users can fix become one line and an exit code; bugs keep a traceback."""

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
    """Command group that prints errors in one line, with exit code 2; an interruption exits with 130, SIGTERM with 143.

    This applies to ``RltrError`` and errors of the file system. All other errors keep their traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with shown():
                return super().invoke(ctx)
        except RltrError as error:
            if os.environ.get("RLTR_DEBUG") == "1":
                raise
            typer.echo(f"rltr: error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            # Errors from writing to an open file, such as a log, have no file name.
            if os.environ.get("RLTR_DEBUG") == "1" or not (error.filename or no_room(error)):
                raise
            where = error.filename or "the results cannot be written"
            typer.echo(f"rltr: error: {where}: {error.strerror}; check free space and write permission", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            with suppress(OSError):  # raised if the terminal was closed
                typer.echo(f"rltr: interrupted{''.join(map(str, stop.args))}", err=True)
            raise typer.Exit(exit_code(stop)) from None


def no_room(error: OSError) -> bool:
    """Whether the disk is full, including the error of the module tempfile, which has another error number."""
    return error.errno in NO_ROOM or "No usable temporary directory" in str(error)


def tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """Print a full disk in a thread (TensorBoard writes in one) as one line; other errors get the usual traceback."""
    if isinstance(failed.exc_value, OSError) and no_room(failed.exc_value):
        typer.echo(f"rltr: a log cannot be written: {failed.exc_value.strerror}", err=True)
    else:
        threading.__excepthook__(failed)
