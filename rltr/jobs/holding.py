"""Hold a folder for results while a job works in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rltr.system.folders import check_out
from rltr.system.lock import locked


@contextmanager
def held(out: Path, **allowed: Any) -> Iterator[None]:
    """Lock ``out``, if :func:`rltr.system.folders.check_out` allows results there.

    It is checked before the folder is made and again once it is locked. It is locked from the beginning: loading and
    measuring take minutes, in which a second job must not begin in the same folder.

    Args:
        out: the folder.
        allowed: arguments of ``check_out``.

    Raises:
        RltrError: if the folder holds something else, or another process works in it.
    """
    check_out(out, **allowed)
    with locked(out):
        check_out(out, **allowed)
        yield
