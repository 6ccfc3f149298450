"""Print the messages of rltr's logger on the command line: information to stdout, warnings to stderr."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer


class Lines(logging.Handler):
    """Logging handler that prints messages without a prefix."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        try:
            typer.echo(self.format(record), err=record.levelno >= logging.WARNING)
        except Exception:  # as in all handlers of logging: a message that cannot be printed must not end the work
            self.handleError(record)


@contextmanager
def shown() -> Iterator[None]:
    """Print the messages of rltr's logger inside the block."""
    logger = logging.getLogger("rltr")
    level, handler = logger.level, Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
