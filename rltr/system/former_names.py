"""Former names of stored fields, so that old policy folders, recipes, latency tables, results and checkpoints load.

Each map is from a former name to the present one. Policy folders have the present names since format 4, checkpoints
since format 3. Other files have no format number, and may have either name, but not both.
"""

from collections.abc import Mapping
from typing import Any

from rltr.errors import RltrError

POLICY_FOLDER = {"dropped": "removal"}
"""Fields of a policy folder's ``config.json``."""
POLICY_CONFIG = {"reader": "pooled", "thrift": "price_slope"}
"""Fields of its ``policy``: the shape of the network."""
POLICY_WEIGHTS = {
    "reader.weight": "pooled.weight",
    "reader.bias": "pooled.bias",
    "clues.weight": "token_features.weight",
    "thrift": "price_slope",
}
"""Tensors of a policy."""
CALIBRATION = {"accuracy": "quality", "dense_accuracy": "dense_quality"}
"""Fields of a calibrated point; the former names are from when all tasks were classifications."""
CHECKPOINT = {f"policy.network.{old}": f"policy.network.{new}" for old, new in POLICY_WEIGHTS.items()} | {
    "dense.logits": "dense.answers"
}
"""Tensors of a checkpoint."""
LATENCY_FIT = {"foretold": "predicted"}
"""Fields of a latency table's ``fit``."""
RECIPE = {"reduction": {"dropped": "removal"}}
"""Fields of a recipe's groups."""
RESULTS = {"dense_accuracy": "dense_quality", "dense_accuracy_interval": "dense_quality_interval"}
"""Fields of an evaluation's ``results.json``."""
RESULTS_POINT = {
    "accuracy": "quality",
    "accuracy_interval": "quality_interval",
    "accuracy_change": "quality_change",
    "accuracy_change_interval": "quality_change_interval",
    "right": "per_input",
    "dropped": "removal",
    "knob": "parameter",
    "schedule": "layers_label",
}
"""Fields of its operating points."""
RESULTS_VIEW = {"dropped": "removal"}
"""Fields of the views of its gallery."""


def present_names(data: Mapping[str, Any], names: Mapping[str, str], where: str) -> dict[str, Any]:
    """``data`` with former names replaced, in the same order.

    Args:
        data: fields, of which some may have former names.
        names: from former to present names.
        where: what messages call ``data``.

    Raises:
        RltrError: if a field is there under both names.
    """
    for former, present in names.items():
        if former in data and present in data:
            raise RltrError(f"{where} has both {present!r} and {former!r}, its former name: leave out {former!r}")
    return {names.get(name, name): value for name, value in data.items()}


def refuse_present(data: Mapping[str, Any], names: Mapping[str, str], where: str) -> None:
    """Raise if data of an old format has present names.

    Raises:
        RltrError: with the name of the field.
    """
    if odd := sorted(set(names.values()) & data.keys()):
        former = next(old for old, new in names.items() if new == odd[0])
        raise RltrError(f"{where} is damaged: in its format {odd[0]!r} is still called {former!r}")


def recipe_in_present_names(recipe: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A recipe, or a part of one, with the present names of its fields.

    Raises:
        RltrError: if a field is there under both names.
    """
    new = dict(recipe)
    for group, names in RECIPE.items():
        fields = new.get(group)
        if isinstance(fields, Mapping):
            new[group] = present_names(fields, names, f"{group} in {where}")
    return new
