"""A finished training: its folder, its recipe, its policy, and what it logged."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rltr.deploy.folder import Policy, load_policy
from rltr.errors import RltrError
from rltr.recipe import Recipe, load_recipe, stored_recipe
from rltr.system.files import at_home
from rltr.system.folders import POLICY_FILE, POLICY_FOLDER, RECIPE_FILE
from rltr.train.run import read_progress

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Run:
    """What :func:`rltr.train` returns.

    Attributes:
        folder: everything the training wrote: recipe, logs, checkpoint, measured prices, policy.
        recipe: every setting it was trained with.
        policy: the trained policy, for :func:`rltr.attach` and :func:`rltr.evaluate`.
    """

    folder: Path
    recipe: Recipe
    policy: Policy

    @classmethod
    def open(cls, folder: Path | str) -> "Run":
        """The run in a folder, which ``rltr train`` or :func:`rltr.train` wrote.

        Raises:
            RltrError: if there is none, or its training is not finished.
        """
        folder = at_home(folder)
        if not (folder / RECIPE_FILE).is_file():
            raise RltrError(
                f"{str(folder)!r} is not a run's folder, as {RECIPE_FILE} is not there: name one that `rltr train` or "
                "rltr.train wrote"
            )
        policy = finished_policy(folder)
        return cls(
            folder, stored_recipe(load_recipe(folder / RECIPE_FILE).model_dump(mode="json"), str(folder)), policy
        )

    @property
    def policy_folder(self) -> Path:
        """Where the policy lies."""
        return self.folder / POLICY_FOLDER

    def history(self) -> list[dict[str, Any]]:
        """What was logged, one dictionary for each update: its columns are those of ``progress.csv``.

        ``rltr/rollouts`` counts rollouts, ``rltr/accuracy`` (or what the task's quality is called) is of the sampled
        policy on training inputs at random cost weights, ``rltr/cost`` in dense passes of a typical input.
        """
        return read_progress(self.folder)

    def history_frame(self) -> "pandas.DataFrame":
        """:meth:`history` as a DataFrame, one row for each update."""
        import pandas

        return pandas.DataFrame(self.history())


def finished_policy(run: Path) -> Policy:
    """The policy of a finished run.

    Raises:
        RltrError: if its training is not finished, with the command that goes on.
    """
    if not (run / POLICY_FOLDER / POLICY_FILE).is_file():
        again = f"rltr train --resume --out {shlex.quote(str(run))}"
        raise RltrError(f"the training in {run} is not finished: `{again}` goes on with it")
    return load_policy(run / POLICY_FOLDER)
