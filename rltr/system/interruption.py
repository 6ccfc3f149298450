"""Handle SIGTERM and SIGHUP like Ctrl-C, so that the process cleans up before it ends."""

import signal
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Raised when a signal asks the process to end; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """Exit code of an interrupted process: 128 plus the number of the signal, so 130 for Ctrl-C."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


def listen() -> None:
    """Install handlers so that SIGTERM and SIGHUP raise :class:`Stopped` in the main thread.

    Signals with another handler are left alone: ``nohup`` ignores SIGHUP.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
