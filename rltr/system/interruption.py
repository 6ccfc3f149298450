"""Being told to stop: what asks a process to end unwinds it as Ctrl-C does, so that nothing is left half done."""

import signal
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """What a shell shows for a process that was ended by this: 128 and the number of the signal; 130 for Ctrl-C."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


def listen() -> None:
    """From now on SIGTERM, and SIGHUP where there is one, raise :class:`Stopped` in the main thread.

    What somebody else has decided on stays: ``nohup`` ignores SIGHUP.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
