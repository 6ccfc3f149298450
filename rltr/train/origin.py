"""What a training began with, beside its recipe: which model and which data, by their contents, wherever they lie."""

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
    """Fingerprints of the model, to the last bit, and of every split, as plain data for a checkpoint."""
    both = f"{backbone.fingerprint} {weights_digest(backbone.model)}"
    found = {"model": hashlib.sha256(both.encode()).hexdigest()}
    return found | {split: getattr(task, split).content() for split in SPLITS}


def refuse_others(before: Mapping[str, Any], now: Mapping[str, str], recipe: Recipe) -> None:
    """Refuse to go on with another model or other data than a training began with, whatever they are called.

    The dense model's answers in the checkpoint are what everything is compared with; a policy goes with its model.

    Args:
        before: what :func:`origin` said when the training began.
        now: what it says now.
        recipe: where model and data are.

    Raises:
        RltrError: with both fingerprints of the first that differs, the likely cause and what to do.
    """
    if before.get("model") != now["model"]:
        raise RltrError(
            f"the model at {recipe.model.source!r} is not the one that this training began with: its fingerprint was "
            f"{_short(before.get('model'))}, now it is {_short(now['model'])}. Likely cause: it was trained further "
            "or saved in another precision. Put the old one back, name the place where it is with --model, or train "
            "in a new folder"
        )
    others = [split for split in SPLITS if before.get(split) != now[split]]
    if others:
        said = "; ".join(f"{split} was {_short(before.get(split))}, now {_short(now[split])}" for split in others)
        raise RltrError(
            f"the data at {recipe.data.source!r} are not those that this training began with, by their fingerprints: "
            f"{said}. Likely cause: inputs or labels were added, removed or changed, or the model's processor or "
            "tokenizer was. Put the old ones back, name the place where they are with --data, or train in a new folder"
        )


def _short(fingerprint: object) -> str:
    return str(fingerprint)[:16]
