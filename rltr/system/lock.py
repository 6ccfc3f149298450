"""Locks for result folders: one process at a time writes to a folder."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rltr.errors import RltrError
from rltr.system.folders import LOCK_FILE, POLICY_FOLDER, RECIPE_FILE

PATIENCE = 0.5
"""Seconds to wait for the lock: a process that is just finishing removes the lock file, which requires a retry."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock ``folder`` for a ``with`` block; it is created, and removed at the end if it is still empty.

    The operating system holds the lock, and releases it if the process is killed or crashes. A lock file that a killed
    process left behind does no harm.

    Raises:
        RltrError: if it is locked already, by this process or another, or is not a folder.
    """
    from filelock import FileLock, Timeout  # imported here, because `rltr --help` does not need it

    if folder.exists() and not folder.is_dir():
        raise RltrError(f"cannot write to {str(folder)!r}: it is a file; name another folder with --out")
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise RltrError(
            f"{str(folder)!r} is in use: another rltr process writes to it, and their files would mix. Wait until it "
            "has ended, or name another folder with --out"
        ) from None
    try:
        yield
    finally:
        if os.name != "nt":  # removed before the release, because afterwards it may be another process's lock
            (folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # folders that are not empty are kept
            for place in made:
                place.rmdir()


@contextmanager
def locked_policy(folder: Path) -> Iterator[None]:
    """Lock the folder of a policy and, if it is inside of a run's folder, the run, whose training also writes there.

    Raises:
        RltrError: as :func:`locked`.
    """
    place = folder.resolve()
    with ExitStack() as held:
        if place.name == POLICY_FOLDER and (place.parent / RECIPE_FILE).is_file():
            held.enter_context(locked(place.parent))
        held.enter_context(locked(folder))
        yield
