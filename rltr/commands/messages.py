"""What rltr's logger says, as lines of the command line: messages on stdout, warnings on stderr."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer


class Lines(logging.Handler):
    """Prints each message as it is; libraries of ours only log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        try:
            typer.echo(self.format(record), err=record.levelno >= logging.WARNING)
        except Exception:  # as every handler of logging does: what cannot be shown must not end the work
            self.handleError(record)


@contextmanager
def shown() -> Iterator[None]:
    """Show what rltr's logger says, as long as this lasts."""
    logger = logging.getLogger("rltr")
    level, handler = logger.level, Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
