"""Fingerprints of the model and the data of a training, independent of where they are stored."""

import hashlib
from collections.abc import Mapping
from typing import Any

from rltr.dense.identity import weights_digest
from rltr.errors import RltrError
from rltr.recipe import Recipe
from rltr.runtime.backbone import Backbone
from rltr.tasks import Task

SPLITS = ("train", "validation", "test")


def origin(backbone: Backbone, task: Task) -> dict[str, str]:
    """Fingerprints of the exact model weights and of every split, as JSON types for a checkpoint."""
    both = f"{backbone.fingerprint} {weights_digest(backbone.model)}"
    found = {"model": hashlib.sha256(both.encode()).hexdigest()}
    return found | {split: getattr(task, split).content() for split in SPLITS}


def refuse_others(before: Mapping[str, Any], now: Mapping[str, str], recipe: Recipe) -> None:
    """Raise if a training is resumed with another model or other data, even at the same path.

    A policy is only valid for the model it was trained on, and the checkpoint holds that model's dense answers.

    Args:
        before: result of :func:`origin` when the training began.
        now: result of :func:`origin` now.
        recipe: names the current places of model and data.

    Raises:
        RltrError: if model or data differ, with both fingerprints, the likely cause and the fix.
    """
    if before.get("model") != now["model"]:
        raise RltrError(
            f"the model at {recipe.model.source!r} is not the one that this training began with: its fingerprint was "
            f"{_short(before.get('model'))}, now it is {_short(now['model'])}. Likely cause: it was trained further "
            "or saved in another precision. Restore the old one, give its path with --model, or train "
            "in a new folder"
        )
    others = [split for split in SPLITS if before.get(split) != now[split]]
    if others:
        said = "; ".join(f"{split} was {_short(before.get(split))}, now {_short(now[split])}" for split in others)
        raise RltrError(
            f"the data at {recipe.data.source!r} are not those that this training began with, by their fingerprints: "
            f"{said}. Likely cause: inputs or labels were added, removed or changed, or the model's processor or "
            "tokenizer was. Restore the old ones, give their path with --data, or train in a new folder"
        )


def _short(fingerprint: object) -> str:
    return str(fingerprint)[:16]
