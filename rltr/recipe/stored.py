"""Recipes that were stored beside what was trained with them: reading them again, and what may differ on resuming."""

from collections.abc import Iterator, Mapping
from typing import Any

from rltr.errors import RltrError
from rltr.recipe.fields import Recipe
from rltr.recipe.file import load_recipe
from rltr.version import __version__

RESUMABLE = (
    "learner.rollouts",
    "learner.learning_rate",
    "learner.final_learning_rate",
    "learner.max_grad_norm",
    "learner.checkpoint_every",
    "evaluation",
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


def refuse_changes(trained: Recipe, wanted: Recipe) -> None:
    """Refuse to go on with a training by a recipe that would make it another training.

    Args:
        trained: what it was trained with so far.
        wanted: what it shall go on with.

    Raises:
        RltrError: with every field that differs, its old and new value, and what may change.
    """
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
