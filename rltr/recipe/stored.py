"""Recipes that were stored beside what was trained with them: reading them again, and what may differ on resuming."""

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
"""Fields and groups that may change when a training goes on: how long and where it runs, what is measured at the end,
and how large the steps to come are (a training that diverged needs smaller ones). All others say what is learned."""


def stored_recipe(content: object, where: str) -> Recipe:
    """The recipe that was stored in ``where``.

    Raises:
        RltrError: if it is none, or has fields or values that this version does not know.
    """
    if not isinstance(content, Mapping):
        raise RltrError(f"{where} holds no recipe: damaged, or written by another version of rltr; make it again")
    try:
        return load_recipe(content)
    except RltrError as error:
        raise RltrError(
            f"the recipe in {where} does not fit rltr {__version__} ({error}): likely another version wrote it. Use "
            "that version, or train again"
        ) from error


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """``recipe`` as it is stored: model, data and latency table are found from any folder, not only from this one.

    Only what is here becomes an absolute path; everything else is the name of something on the hub, or embedded.
    ``out`` stays: whoever reads a stored recipe knows which folder it is in.
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
    """``trained`` with model, data and latency table where ``wanted`` has them, for who compares them by content.

    Only from one place to another: embedded is no place.
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
    """Refuse to go on with a training by a recipe that would make it another training.

    Args:
        trained: what it was trained with so far.
        wanted: what it should go on with.

    Raises:
        RltrError: with every field that differs, its old and new value, and what may change.
    """
    # Runs of older versions hold paths as they were given.
    trained, wanted = with_absolute_paths(trained), with_absolute_paths(wanted)
    before, after = dict(_fields(trained.model_dump(mode="json"))), dict(_fields(wanted.model_dump(mode="json")))
    changed = [
        f"{key} was {before[key]!r}, now {after[key]!r}"
        for key in before
        if before[key] != after[key] and not (key in RESUMABLE or key.partition(".")[0] in RESUMABLE)
    ]
    if changed:
        raise RltrError(
            f"a training goes on with the recipe it began with, but {'; '.join(changed)}. Leave that as it was, or "
            f"train in a new folder; what may change: {', '.join(RESUMABLE)}"
        )


def _fields(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field by its dotted key."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
