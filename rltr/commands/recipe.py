"""``rltr recipe``: print every setting with its description."""

from typing import Annotated

import typer

from rltr.commands.options import SetOption


def show_recipe(
    recipe_file: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="YAML file, or 'demo' or 'quick'.", show_default=False)
    ] = None,
    changes: SetOption = None,
) -> None:
    """Print every setting with its meaning and valid values.

    \b
    Examples:
      rltr recipe > my.yaml
      rltr recipe demo --set learner.rollouts=10000
    """
    from rltr.recipe import load_recipe, recipe_text

    typer.echo(recipe_text(load_recipe(recipe_file, changes or ())), nl=False)
