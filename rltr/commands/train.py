"""``rltr train``: train a policy for the user's model and data."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rltr.commands.early import refuse_early
from rltr.commands.options import (
    DataOption,
    DeviceOption,
    ModelOption,
    OutOption,
    RecipeOption,
    SeedOption,
    SetOption,
    ThreadsOption,
    given,
)
from rltr.errors import RltrError
from rltr.system.folders import RECIPE_FILE, check_out

if TYPE_CHECKING:
    import rltr.recipe


def train(
    model: ModelOption = None,
    data: DataOption = None,
    out: OutOption = None,
    recipe_file: RecipeOption = None,
    changes: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, with its own recipe.")] = False,
    seed: SeedOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Train a policy for a frozen model on your data.

    \b
    Examples:
      rltr train --model my-vit --data photos --out runs/photos
      rltr train --model my-bert --data reviews.csv --set data.label_column=stars
      rltr train --model my-bert --data owner/reviews --set data.test_split=validation
      rltr train --recipe my.yaml --set learner.rollouts=20000
      rltr train --resume --out runs/photos
    """
    from rltr.recipe import EMBEDDED, load_recipe

    chosen = {"model.source": model, "data.source": data, "learner.seed": seed}
    values = given({**chosen, "out": out, "device": device, "threads": threads})
    if resume:
        # A run must be resumed with its own recipe; only fields such as its length and the device may change. Model and
        # data may have been moved: they are compared by content with those that the run began with.
        if recipe_file or "learner.seed" in values:
            raise RltrError(
                f"--resume takes the run's own recipe; leave out {'--recipe' if recipe_file else 'learner.seed'}"
            )
        folder = load_recipe(values=given({"out": out})).out
        check_out(folder, resume=True)
        recipe = load_recipe(folder / RECIPE_FILE, changes or (), {**values, "out": folder})
        _refuse_moved(recipe)
    else:
        recipe = load_recipe(recipe_file, changes or (), values)
        if recipe.model.source != EMBEDDED and "source" not in recipe.data.model_fields_set:
            raise RltrError(f"there is no data for model {recipe.model.source!r}; name it with --data")
        check_out(recipe.out)
    refuse_early(recipe)
    from rltr.jobs.training import run_train

    try:
        run = run_train(recipe, resume, progress=sys.stdout.isatty())
    except KeyboardInterrupt as stop:
        begun = (recipe.out / RECIPE_FILE).is_file()
        hint = f"; go on from the last checkpoint with: rltr train --resume --out {shlex.quote(str(recipe.out))}"
        stop.args = (hint if begun else " before anything was written",)
        raise
    typer.echo(f"trained; next: rltr export --run {shlex.quote(str(run.folder))} --out my-policy")


def _refuse_moved(recipe: "rltr.recipe.Recipe") -> None:
    """Raise if the model or data of a run are no longer at the stored path; the message says how to name another."""
    for what, source in (("model", recipe.model.source), ("data", recipe.data.source)):
        # Local paths are stored as absolute paths; everything else is a name.
        if Path(source).is_absolute() and not Path(source).exists():
            raise RltrError(
                f"this run's {what} is no longer at {source!r}: if it was moved, name its new path with --{what}; its "
                "content is compared with that at the start of the run"
            )
