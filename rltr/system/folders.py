"""The folders that commands write to: what lies in them under which name, and what may be written where."""

import os
from pathlib import Path

from rltr.errors import RltrError
from rltr.system.files import UNFINISHED, recover_folder, remove, remove_unfinished

RECIPE_FILE = "recipe.yaml"
"""Every training run's folder holds its recipe under this name; that shows that the folder is a run's."""
DEMO_FILE = "made_by_rltr_demo.txt"
"""Shows that a run is a demo's, which the next demo may replace."""
EVALUATION_FILE = "evaluation.yaml"
"""The recipe of a measurement; that shows that the folder is an evaluation's, which the next one may replace."""
POLICY_FILE = "policy.safetensors"
"""Shows that a folder is an exported policy."""
LATENCY_FILE = "latency.json"
"""The measured prices of a run."""
LOCK_FILE = ".rltr.lock"
"""Locked by whoever is at work in the folder (:mod:`rltr.system.lock`)."""
CHECKPOINT = "checkpoint"
LOGS = "logs"
POLICY_FOLDER = "policy"
RUN_FOLDERS = {
    CHECKPOINT: ("state.safetensors", "state.json"),
    LOGS: ("[0-9]*/progress.csv", "[0-9]*/events.out.tfevents.*"),
    POLICY_FOLDER: (POLICY_FILE, "config.json", "README.md"),
}
"""The folders of a run, and what rltr writes into each of them."""
REPORT_FILES = (
    "report.html",
    "results.json",
    "results.csv",
    "quality_over_latency.png",
    "quality_over_flops.png",
    "kept_tokens.png",
    "predicted_latency.png",
    "training.png",
    "overview.png",
)
"""Everything that a report may consist of."""
FORMER_REPORT_FILES = ("foretold_latency.png",)
"""What earlier versions called files of a report; cleared like the others."""


def check_out(path: Path, *, marker: str = RECIPE_FILE, resume: bool = False, replace: bool = False) -> None:
    """Refuse, before any work is done, a folder for results that cannot take them or holds something else.

    Args:
        path: the folder; it need not exist.
        marker: name of the file that shows that what the folder holds was made by the same command.
        resume: the run in it is continued, so it must be there.
        replace: what the same command made before may be replaced.

    Raises:
        RltrError: with what is there and what to do.
    """
    try:
        existing, is_own, names = _look_at(path, marker)
    except (OSError, ValueError) as error:  # no access, a name that is too long, a link to itself; a null character
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or "it cannot be looked at"
        raise RltrError(f"cannot write to {str(path)!r}: {reason.lower()}; name another folder with --out") from error
    if not existing.is_dir():
        what = "is a file" if existing.exists() else "is a link that leads nowhere"
        raise RltrError(f"cannot write to {str(path)!r}: {str(existing)!r} {what}; name another folder with --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RltrError(f"cannot write to {str(existing)!r}: permission denied; name another folder with --out")
    if resume and not is_own:
        raise RltrError(
            f"nothing to resume: {str(path)!r} holds no run ({marker} is not there); name its folder with --out"
        )
    if is_own and not resume and not replace:
        raise RltrError(
            f"{str(path)!r} holds a run already; continue it with --resume (from Python: resume=True), or name another "
            "folder with --out"
        )
    if names and not is_own:
        what = "a training run" if RECIPE_FILE in names else "something else"
        raise RltrError(f"{str(path)!r} holds {what} ({marker} is not there); name a new folder with --out")


def _look_at(path: Path, marker: str) -> tuple[Path, bool, list[str]]:
    """The nearest thing that exists at or above ``path``, whether the marker is in it, and the names in it.

    The folder is listed once, so that one that changes meanwhile is seen as it was at one time.
    """
    path = path.absolute()
    existing = next(parent for parent in (path, *path.parents) if _is_there(parent))
    if existing != path or not path.is_dir():
        return existing, False, []
    # What a killed process left of a file that it was writing is nobody's result.
    names = [name for name in os.listdir(path) if name != LOCK_FILE and not name.endswith(UNFINISHED)]
    return existing, marker in names and (path / marker).is_file(), names


def _is_there(path: Path) -> bool:
    """Whether there is something, be it a link that leads nowhere. Not ``lexists``, which takes any error for a no."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def clear_out(path: Path) -> None:
    """Remove what an earlier run or evaluation left in a folder, and nothing that somebody else put there."""
    for name, written in RUN_FOLDERS.items():
        _clear(path / name, written)
    # The files that tell whose folder it is go last: whatever interrupts this, it can be repeated.
    for name in (LATENCY_FILE, *REPORT_FILES, *FORMER_REPORT_FILES, RECIPE_FILE, EVALUATION_FILE, DEMO_FILE):
        remove(path / name)


def _clear(folder: Path, written: tuple[str, ...]) -> None:
    """Remove the files of these patterns from a folder, then it and the folders in it, as far as they are empty."""
    recover_folder(folder)
    remove_unfinished(folder)
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    found = [file for pattern in written for file in folder.glob(pattern)]
    for file in found:
        remove(file)
    for parent in sorted({file.parent for file in found} | {folder}, key=lambda place: len(place.parts), reverse=True):
        if not any(parent.iterdir()):
            parent.rmdir()


def is_run_policy(policy_folder: Path) -> bool:
    """Whether a policy's folder is still where training wrote it: in its run, beside the logs."""
    folder = policy_folder.resolve()
    return folder.name == POLICY_FOLDER and (folder.parent / RECIPE_FILE).is_file()
