"""Recipes that are stored with runs and policies: read them again, and check what may change when a run is resumed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rltr.errors import RltrError
from rltr.recipe.fields import Recipe
from rltr.recipe.file import load_recipe
from rltr.recipe.inputs import EMBEDDED
from rltr.system.files import at_home
from rltr.version import __version__

RESUMABLE = (
    "learner.rollouts",
    "learner.learning_rate",
    "learner.final_learning_rate",
    "learner.max_grad_norm",
    "learner.checkpoint_every",
    "evaluation",
    "report_to",
    "device",
    "threads",
    "out",
)
"""Fields and groups that may change when a training is resumed: its length, where it runs, what is measured at the end,
and the step sizes (a training that diverged needs smaller ones). All other fields define what is learned."""


def stored_recipe(content: object, where: str) -> Recipe:
    """Validate a recipe that was stored in ``where``.

    Raises:
        RltrError: if it is not a recipe, or has fields or values that this version does not know.
    """
    if not isinstance(content, Mapping):
        raise RltrError(
            f"{where} has no recipe: it is damaged, or was written by another version of rltr; create it again"
        )
    try:
        return load_recipe(content)
    except RltrError as error:
        raise RltrError(
            f"the recipe in {where} does not fit rltr {__version__} ({error}): likely another version wrote it. Use "
            "that version, or train again"
        ) from error


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """``recipe`` with absolute paths of model, data and latency table, so that it can be used from any folder.

    Only existing paths are changed; all other sources are names on the hub, or embedded. ``out`` is not changed: the
    stored recipe is in that folder.
    """
    model, data, cost = recipe.model, recipe.data, recipe.cost
    if model.source != EMBEDDED:
        model = model.model_copy(update={"source": _absolute(model.source)})
    if data.source != EMBEDDED:
        data = data.model_copy(update={"source": _absolute(data.source)})
    if cost.table is not None:
        cost = cost.model_copy(update={"table": Path(_absolute(str(cost.table)))})
    return recipe.model_copy(update={"model": model, "data": data, "cost": cost})


def moved(trained: Recipe, wanted: Recipe) -> Recipe:
    """``trained`` with the paths of model, data and latency table from ``wanted``, which are compared by content.

    The source ``embedded`` is not a path, and is never replaced.
    """
    model, data, cost = trained.model, trained.data, trained.cost
    if EMBEDDED not in (model.source, wanted.model.source):
        model = model.model_copy(update={"source": wanted.model.source})
    if EMBEDDED not in (data.source, wanted.data.source):
        data = data.model_copy(update={"source": wanted.data.source})
    if None not in (cost.table, wanted.cost.table):
        cost = cost.model_copy(update={"table": wanted.cost.table})
    return trained.model_copy(update={"model": model, "data": data, "cost": cost})


def _absolute(source: str) -> str:
    path = at_home(source)
    return str(path.absolute()) if path.exists() else source


def refuse_changes(trained: Recipe, wanted: Recipe) -> None:
    """Raise if a recipe to resume a training with differs in fields that define the training.

    Args:
        trained: the recipe of the training so far.
        wanted: the recipe to resume with.

    Raises:
        RltrError: with every field that differs, its old and new value, and the fields that may change.
    """
    # Runs of older versions stored relative paths.
    trained, wanted = with_absolute_paths(trained), with_absolute_paths(wanted)
    before, after = dict(_fields(trained.model_dump(mode="json"))), dict(_fields(wanted.model_dump(mode="json")))
    changed = [
        f"{key} was {before[key]!r}, now {after[key]!r}"
        for key in before
        if before[key] != after[key] and not (key in RESUMABLE or key.partition(".")[0] in RESUMABLE)
    ]
    if changed:
        raise RltrError(
            f"a training is resumed with the recipe it began with, but {'; '.join(changed)}. Undo that change, or "
            f"train in a new folder; fields that may change: {', '.join(RESUMABLE)}"
        )


def _fields(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its dotted key."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
