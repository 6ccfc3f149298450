"""The recipe: all settings of a run, as one typed pydantic model.

The command line, YAML files and the settings stored with a trained policy all use this model, so they cannot disagree.
Every field has a description with its meaning, unit and range; `rltr recipe` prints them.
"""

from rltr.recipe.fields import Recipe
from rltr.recipe.file import find_recipe, load_recipe, recipe_text, save_recipe
from rltr.recipe.inputs import EMBEDDED, IN_MEMORY, is_hub_name
from rltr.recipe.names import by_own_name
from rltr.recipe.stored import moved, refuse_changes, stored_recipe, with_absolute_paths

__all__ = [
    "EMBEDDED",
    "IN_MEMORY",
    "Recipe",
    "by_own_name",
    "find_recipe",
    "is_hub_name",
    "load_recipe",
    "moved",
    "recipe_text",
    "refuse_changes",
    "save_recipe",
    "stored_recipe",
    "with_absolute_paths",
]
