"""``rltr probe``: measure what a model can do without on given data, before any training."""

from pathlib import Path
from typing import Annotated

import typer

from rltr.commands.early import refuse_early
from rltr.commands.options import DeviceOption, RecipeOption, SetOption, ThreadsOption, given
from rltr.errors import RltrError
from rltr.system.files import at_home


def probe(
    model: Annotated[str, typer.Argument(help="Folder with a saved model, hub id, or 'embedded'.")] = "embedded",
    data: Annotated[str, typer.Argument(help="Data, as in `rltr train --data`.")] = "embedded",
    inputs: Annotated[int, typer.Option("--inputs", min=2, help="Training inputs in the sample.")] = 192,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON file for the result.", show_default=False)
    ] = None,
    recipe_file: RecipeOption = None,
    changes: SetOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure at which layers tokens can leave, how, and which features tell so, without training.

    Untrained policies and rules with different decision layers, removals and features run on a sample of training
    inputs. They are compared by the cost (FLOPs) at which they lose little. Takes one to two minutes on a small model.

    \b
    Examples:
      rltr probe
      rltr probe my-vit photos --inputs 400
      rltr probe my-bert reviews.csv --set data.label_column=stars --out probe.json
    """
    from rltr.recipe import load_recipe

    values = given({"model.source": model, "data.source": data, "device": device, "threads": threads})
    recipe = load_recipe(recipe_file, changes or (), values)
    refuse_early(recipe)
    out = None if out is None else at_home(out)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise RltrError(f"--out names the JSON file to write, but {str(out)!r} is a folder or lies in none that exists")
    from rich.console import Console

    from rltr.jobs.probe import run_probe

    found = run_probe(recipe, inputs, out)
    console = Console()
    for table in found.tables():
        console.print(table)
