"""The folders that commands write to: the names of the files in them, and checks before anything is written."""

import os
from pathlib import Path

from rltr.errors import RltrError
from rltr.system.files import UNFINISHED, recover_folder, remove, remove_unfinished

RECIPE_FILE = "recipe.yaml"
"""The recipe of a training run; marks a folder as a run."""
DEMO_FILE = "made_by_rltr_demo.txt"
"""Marks a run as a demo, which the next demo may replace."""
EVALUATION_FILE = "evaluation.yaml"
"""The recipe of an evaluation; marks a folder as an evaluation, which the next one may replace."""
POLICY_FILE = "policy.safetensors"
"""The weights of a policy; marks a folder as an exported policy."""
LATENCY_FILE = "latency.json"
"""The measured prices of a run."""
LOCK_FILE = ".rltr.lock"
"""Locked by the process that writes to the folder (:mod:`rltr.system.lock`)."""
CHECKPOINT = "checkpoint"
LOGS = "logs"
POLICY_FOLDER = "policy"
RUN_FOLDERS = {
    CHECKPOINT: ("state.safetensors", "state.json"),
    LOGS: ("[0-9]*/progress.csv", "[0-9]*/events.out.tfevents.*"),
    POLICY_FOLDER: (POLICY_FILE, "config.json", "README.md"),
}
"""The subfolders of a run, and the files that rltr writes into each of them."""
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
"""All files that a report may have."""
FORMER_REPORT_FILES = ("foretold_latency.png",)
"""File names in reports of earlier versions, which are cleared as well."""


def check_out(path: Path, *, marker: str = RECIPE_FILE, resume: bool = False, replace: bool = False) -> None:
    """Check before any work is done that results may be written to a folder.

    Args:
        path: the folder; it need not exist.
        marker: name of the file that marks folders written by the same command.
        resume: whether a run is resumed, so that the marker must exist.
        replace: whether earlier results of the same command may be replaced.

    Raises:
        RltrError: if the folder is not writable or has other content; the message says which, and what to do.
    """
    try:
        existing, is_own, names = _look_at(path, marker)
    except (OSError, ValueError) as error:  # no access, a too long name, a link to itself, or a null character
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or "it cannot be looked at"
        raise RltrError(f"cannot write to {str(path)!r}: {reason.lower()}; name another folder with --out") from error
    if not existing.is_dir():
        what = "is a file" if existing.exists() else "is a broken link"
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
    """The nearest existing path at or above ``path``, whether it has the marker, and the names in it.

    The folder is listed once, so that the results are consistent even if it changes meanwhile.
    """
    path = path.absolute()
    existing = next(parent for parent in (path, *path.parents) if _is_there(parent))
    if existing != path or not path.is_dir():
        return existing, False, []
    # Temporary files of killed processes are not results.
    names = [name for name in os.listdir(path) if name != LOCK_FILE and not name.endswith(UNFINISHED)]
    return existing, marker in names and (path / marker).is_file(), names


def _is_there(path: Path) -> bool:
    """Whether a path exists, including broken links. Unlike ``lexists``, it raises on errors such as missing access."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def clear_out(path: Path) -> None:
    """Remove the files of an earlier run or evaluation from a folder; all other files are kept."""
    for name, written in RUN_FOLDERS.items():
        _clear(path / name, written)
    # The marker files are removed last, so that an interrupted clean-up can be repeated.
    for name in (LATENCY_FILE, *REPORT_FILES, *FORMER_REPORT_FILES, RECIPE_FILE, EVALUATION_FILE, DEMO_FILE):
        remove(path / name)


def _clear(folder: Path, written: tuple[str, ...]) -> None:
    """Remove the files that match these patterns, and then the folder and its subfolders if they are empty."""
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
    """Whether a policy's folder is inside of a run's folder, where training wrote it."""
    folder = policy_folder.resolve()
    return folder.name == POLICY_FOLDER and (folder.parent / RECIPE_FILE).is_file()
