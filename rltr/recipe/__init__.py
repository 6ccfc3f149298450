"""The recipe: everything that decides how a run goes, typed, in one place.

One model feeds the command line, the YAML file and what is stored beside a trained policy, so they cannot disagree.
Every field says what it means, in which unit, and what it may be; `rltr recipe` prints that.
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
