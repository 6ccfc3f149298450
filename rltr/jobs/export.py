"""The job of ``rltr export``: copy the policy of a finished run to a separate folder."""

from pathlib import Path

from rltr.deploy.folder import save_policy
from rltr.jobs.run import finished_policy
from rltr.system.lock import locked_policy


def run_export(run: Path, out: Path) -> None:
    """Copy the policy of a finished run to the folder ``out``.

    Raises:
        RltrError: if the training is not finished, or ``out`` cannot be written.
    """
    policy = finished_policy(run)
    with locked_policy(out):
        save_policy(policy, out)
