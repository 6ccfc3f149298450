"""One process at a time writes to a folder of results; the lock ends with its owner, however that ends."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rltr.errors import RltrError
from rltr.system.folders import LOCK_FILE, POLICY_FOLDER, RECIPE_FILE

PATIENCE = 0.5
"""Seconds to wait: an owner that is just leaving removes the file, and who opened it before must look again."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for the length of a ``with`` block; it is made, and removed in the end if it is still empty.

    The operating system holds the lock, so that neither a kill nor a crash leaves one behind; a file that a killed
    process left does not matter.

    Raises:
        RltrError: if somebody else holds it, in this process or another, or it is no folder.
    """
    from filelock import FileLock, Timeout  # not at the top: `rltr --help` locks nothing

    if folder.exists() and not folder.is_dir():
        raise RltrError(f"cannot write to {str(folder)!r}: it is a file; name another folder with --out")
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise RltrError(
            f"{str(folder)!r} is in use: another rltr is at work in it, and two would mix what they write. Wait until "
            "it has ended, or name another folder with --out"
        ) from None
    try:
        yield
    finally:
        if os.name != "nt":  # while it is held: afterwards it may be another's
            (folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # what is not empty stays
            for place in made:
                place.rmdir()


@contextmanager
def locked_policy(folder: Path) -> Iterator[None]:
    """Hold the folder of a policy and, if it is the one in a run's folder, the run: its training writes there, too.

    Raises:
        RltrError: as :func:`locked`.
    """
    place = folder.resolve()
    with ExitStack() as held:
        if place.name == POLICY_FOLDER and (place.parent / RECIPE_FILE).is_file():
            held.enter_context(locked(place.parent))
        held.enter_context(locked(folder))
        yield
