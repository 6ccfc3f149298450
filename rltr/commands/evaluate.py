"""``rltr evaluate``: compare a policy with the baselines."""

from pathlib import Path
from typing import Annotated

import typer

from rltr.commands.early import policy_config, refuse_early
from rltr.commands.options import (
    DataOption,
    DeviceOption,
    ModelOption,
    OutOption,
    RecipeOption,
    SetOption,
    ThreadsOption,
    given,
)
from rltr.system.files import at_home
from rltr.system.folders import EVALUATION_FILE, check_out


def evaluate(
    policy: Annotated[Path, typer.Option("--policy", "-p", help="A policy's folder.", show_default=False)],
    model: ModelOption = None,
    data: DataOption = None,
    out: OutOption = None,
    recipe_file: RecipeOption = None,
    changes: SetOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Compare a policy with the baselines, and write a report.

    Accuracy, FLOPs, latency and pictures are written to --out (default: runs/evaluation), and replace an earlier
    evaluation. Model and data are those of the training, unless you name others.

    \b
    Examples:
      rltr evaluate --policy my-policy --out measured
      rltr evaluate --policy my-policy --data other-photos --set evaluation.cost_weights=[0.1,0.5]
    """
    from rltr.recipe import load_recipe, stored_recipe

    policy = at_home(policy)
    config = policy_config(policy)
    trained = None if recipe_file else stored_recipe(config.get("recipe"), str(policy)).model_dump(mode="json")
    values = given({"model.source": model, "data.source": data, "device": device, "threads": threads})
    recipe = load_recipe(recipe_file or trained, changes or (), {**values, "out": out or Path("runs/evaluation")})
    check_out(recipe.out, marker=EVALUATION_FILE, replace=True)
    refuse_early(recipe)
    from rltr.jobs.evaluation import run_evaluate

    run_evaluate(policy, recipe, progress=True)
