"""Check and lock the result folder of a job."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rltr.system.folders import check_out
from rltr.system.lock import locked


@contextmanager
def held(out: Path, **allowed: Any) -> Iterator[None]:
    """Lock ``out`` for a ``with`` block, if :func:`rltr.system.folders.check_out` accepts it.

    The folder is checked before it is created, and again once it is locked. It is locked before loading and measuring,
    which take minutes in which another job could start in the same folder.

    Args:
        out: the folder.
        allowed: arguments of ``check_out``.

    Raises:
        RltrError: if the folder has other content, or another process writes to it.
    """
    check_out(out, **allowed)
    with locked(out):
        check_out(out, **allowed)
        yield
