"""A finished training run: its folder, recipe, policy and log."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rltr.deploy.folder import Policy, load_policy
from rltr.errors import RltrError
from rltr.recipe import Recipe, load_recipe
from rltr.system.files import at_home
from rltr.system.folders import POLICY_FILE, POLICY_FOLDER, RECIPE_FILE
from rltr.train.run import read_progress

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Run:
    """A finished training run, as :func:`rltr.train` returns it.

    Attributes:
        folder: the folder with recipe, logs, checkpoint, measured prices and policy.
        recipe: all settings of the training.
        policy: the trained policy, for :func:`rltr.attach` and :func:`rltr.evaluate`.
    """

    folder: Path
    recipe: Recipe
    policy: Policy

    @classmethod
    def open(cls, folder: Path | str) -> "Run":
        """Load the run in a folder that ``rltr train`` or :func:`rltr.train` wrote.

        Raises:
            RltrError: if it is not a run's folder, or the training is not finished.
        """
        folder = at_home(folder)
        if not (folder / RECIPE_FILE).is_file():
            raise RltrError(
                f"{str(folder)!r} is not a run's folder, because {RECIPE_FILE} is missing: name one that `rltr train` "
                "or rltr.train wrote"
            )
        return cls(folder, load_recipe(folder / RECIPE_FILE), finished_policy(folder))

    @property
    def policy_folder(self) -> Path:
        """The folder of the policy."""
        return self.folder / POLICY_FOLDER

    def history(self) -> list[dict[str, Any]]:
        """The training log, one dictionary per update, with the columns of ``progress.csv``.

        ``rltr/rollouts`` counts rollouts. ``rltr/accuracy`` (or the name of the task's metric) is the quality of the
        sampled policy on training inputs at random cost weights. ``rltr/cost`` is in dense passes of a typical input.
        """
        return read_progress(self.folder)

    def history_frame(self) -> "pandas.DataFrame":
        """:meth:`history` as a DataFrame, one row per update."""
        import pandas

        return pandas.DataFrame(self.history())


def finished_policy(run: Path) -> Policy:
    """Load the policy of a finished run.

    Raises:
        RltrError: if its training is not finished; the message has the command to resume it.
    """
    if not (run / POLICY_FOLDER / POLICY_FILE).is_file():
        again = f"rltr train --resume --out {shlex.quote(str(run))}"
        raise RltrError(f"the training in {run} is not finished: resume it with `{again}`")
    return load_policy(run / POLICY_FOLDER)
