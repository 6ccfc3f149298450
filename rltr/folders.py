"""The folders that commands write to: what lies in them under which name, and what may be written where."""

import os
from pathlib import Path

from rltr.errors import RltrError
from rltr.files import remove

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
CHECKPOINT = "checkpoint"
LOGS = "logs"
POLICY_FOLDER = "policy"
REPORT_FILES = (
    "report.html",
    "results.json",
    "results.csv",
    "quality_over_latency.png",
    "quality_over_flops.png",
    "kept_tokens.png",
    "foretold_latency.png",
    "training.png",
    "overview.png",
)
"""Everything that a report may consist of."""


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
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise RltrError(f"cannot write to {str(path)!r}: {str(existing)!r} is a file; name another folder with --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RltrError(f"cannot write to {str(existing)!r}: permission denied; name another folder with --out")
    is_own = (path / marker).is_file()
    if resume and not is_own:
        raise RltrError(
            f"nothing to resume: {str(path)!r} holds no run ({marker} is not there); name its folder with --out"
        )
    if is_own and not resume and not replace:
        raise RltrError(
            f"{str(path)!r} holds a run already; continue it with --resume, or name another folder with --out"
        )
    if path.exists() and not is_own and any(path.iterdir()):
        what = "a training run" if (path / RECIPE_FILE).is_file() else "something else"
        raise RltrError(f"{str(path)!r} holds {what} ({marker} is not there); name a new folder with --out")


def clear_out(path: Path) -> None:
    """Remove what an earlier run or evaluation left in a folder, and nothing that somebody else put there."""
    results = (CHECKPOINT, LOGS, POLICY_FOLDER, LATENCY_FILE, *REPORT_FILES)
    # The files that tell whose folder it is go last: whatever interrupts this, it can be repeated.
    for name in (*results, RECIPE_FILE, EVALUATION_FILE, DEMO_FILE):
        remove(path / name)


def is_run_policy(policy_folder: Path) -> bool:
    """Whether a policy's folder is still where training wrote it: in its run, beside the logs."""
    folder = policy_folder.resolve()
    return folder.name == POLICY_FOLDER and (folder.parent / RECIPE_FILE).is_file()
