"""Writing files so that a crash never leaves half of one behind, and nothing is overwritten by mistake."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rltr.errors import RltrError

RECIPE_FILE = "recipe.yaml"
"""Every run's folder holds its recipe under this name; that shows that the folder is a run's."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` when the block ends, remove it when it raises.

    Args:
        path: a file's final place; missing parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files for their owner only; give them the permissions an ordinary write would have.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it takes the place of ``path`` when the block ends without an error.

    What ``path`` held before is replaced as a whole, after the new folder is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_out(path: Path, *, marker: str = RECIPE_FILE, resume: bool = False, replace: bool = False) -> None:
    """Refuse, before any work is done, a folder for results that cannot take them or holds something else.

    Args:
        path: the folder; it need not exist.
        marker: name of the file that shows that what the folder holds was made by rltr.
        resume: the run in it is continued, so it must be there.
        replace: a run in it may be replaced.

    Raises:
        RltrError: with what is there and what to do.
    """
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise RltrError(f"cannot write to {str(path)!r}: {str(existing)!r} is a file; name another folder with --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RltrError(f"cannot write to {str(existing)!r}: permission denied; name another folder with --out")
    is_run = (path / marker).is_file()
    if resume and not is_run:
        raise RltrError(
            f"nothing to resume: {str(path)!r} holds no run ({marker} is not there); name its folder with --out"
        )
    if is_run and not resume and not replace:
        raise RltrError(
            f"{str(path)!r} holds a run already; continue it with --resume, or name another folder with --out"
        )
    if path.exists() and not is_run and any(path.iterdir()):
        raise RltrError(f"{str(path)!r} holds something else ({marker} is not there); name a new folder with --out")
