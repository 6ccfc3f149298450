"""The policy folder: weights in safetensors, settings in JSON, and a model card. Loading it runs no code from it."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rltr import cost as costs
from rltr.cost import CostModel
from rltr.cost.pricing import Pricing
from rltr.deploy.calibration import CalibrationPoint
from rltr.deploy.card import card
from rltr.deploy.prices import check_prices
from rltr.deploy.schema import FORMAT, RENAMED, read_config, with_digest
from rltr.deploy.weights import check_sound, from_bytes, most_bytes, to_bytes
from rltr.errors import RltrError
from rltr.policies.network import TokenPolicy
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.system.files import at_home, atomic_folder
from rltr.system.folders import POLICY_FILE as WEIGHTS
from rltr.system.folders import POLICY_FOLDER
from rltr.system.reading import LARGEST_CONFIG, read_regular
from rltr.version import __version__

CONFIG = "config.json"
CARD = "README.md"


@dataclass
class Policy:
    """A trained policy with everything needed to run it.

    Attributes:
        network: the network that scores tokens.
        layers: the decision layers; tokens may leave before each of them.
        removal: whether removed tokens are merged or dropped.
        cost: the cost model of its prices.
        typical_tokens: tokens of the training input of median length; a dense pass over it is the unit of prices.
        backbone: the model it was trained for: ``name``, ``model_type``, ``fingerprint``, ``fingerprint_in_float16``,
            ``depth``, ``width``, and ``tower`` if only a submodule is reduced.
        calibration: cost, time and quality at several cost weights, on the validation split.
        recipe: the recipe of its training, as plain data.
        facts: test results for its card: optionally ``table`` (rows as mappings) and ``environment`` (one line).
        quality_name: name of the calibrated quality, such as ``accuracy``.
    """

    network: TokenPolicy
    layers: tuple[int, ...]
    removal: Removal
    cost: CostModel
    typical_tokens: int
    backbone: dict[str, Any]
    calibration: list[CalibrationPoint] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    quality_name: str = "accuracy"

    @property
    def pricing(self) -> Pricing:
        """Prices of the backbone it was trained for."""
        return Pricing(self.cost, self.layers, self.backbone["depth"], self.typical_tokens)

    def check_prices(self) -> None:
        """Refuse prices that the policy network cannot take as input.

        Raises:
            ValueError: if a cost is not finite, negative, or falls as tokens are added (see
                :func:`rltr.deploy.prices.check_prices`).
        """
        check_prices(self.cost, self.layers, self.backbone["depth"], self.typical_tokens, self.network.config.grid)

    def _is_trained_for(self, backbone: Backbone) -> bool:
        """Whether the weights are those it was trained for; either the stored or the present ones may be in float16."""
        stored, in_half = self.backbone["fingerprint"], self.backbone.get("fingerprint_in_float16")
        return backbone.fingerprint in (stored, in_half) or backbone.fingerprint_in_float16 == stored

    def check_fits(self, backbone: Backbone) -> None:
        """Refuse a model other than the one this policy was trained for, and a damaged policy.

        Raises:
            RltrError: if fingerprints or shapes differ, or weights of the policy are not finite.
        """
        if not self._is_trained_for(backbone):
            raise RltrError(
                f"this policy was trained for {self.backbone['name']} ({self.backbone['model_type']}, fingerprint "
                f"{self.backbone['fingerprint'][:16]}), but the model is {backbone.name} "
                f"({backbone.config.model_type}, fingerprint {backbone.fingerprint[:16]}): load the weights it was "
                f"trained for, or train a policy for this model"
            )
        shape = self.network.config
        made = {"layers": shape.depth, "width": shape.backbone_width, "pooled": shape.pooled}
        found = {"layers": backbone.depth, "width": backbone.width, "pooled": backbone.family.pooled}
        if made != found:
            raise RltrError(
                f"this policy is damaged: its network is for {made}, but the model has {found}. Export it again"
            )
        try:
            check_sound(self.network.state_dict())
        except ValueError as error:
            raise RltrError(f"this policy would ruin the model: {error}. Train it again") from error


def describe(backbone: Backbone) -> dict[str, Any]:
    """Describe a model for the field ``backbone`` of :class:`rltr.Policy`."""
    return {
        "name": backbone.name,
        "model_type": backbone.config.model_type,
        "fingerprint": backbone.fingerprint,
        "fingerprint_in_float16": backbone.fingerprint_in_float16,
        "depth": backbone.depth,
        "width": backbone.width,
        "tower": backbone.tower,
    }


def save_policy(policy: Policy, folder: Path) -> None:
    """Write a policy folder. A policy that is already in ``folder`` is replaced once the new one is complete.

    Raises:
        RltrError: if ``folder`` is in use, or weights or prices of the policy are not finite.
    """
    try:
        weights = to_bytes(policy.network)
        policy.check_prices()
    except ValueError as error:
        raise RltrError(f"this policy cannot be saved, because it would ruin the model: {error}") from error
    config = {
        "format": FORMAT,
        "rltr": __version__,
        "backbone": policy.backbone,
        "layers": list(policy.layers),
        "removal": policy.removal,
        "policy": policy.network.config.to_dict(),
        "cost": policy.cost.to_dict(),
        "typical_tokens": policy.typical_tokens,
        "calibration": [point.to_dict() for point in policy.calibration],
        "recipe": policy.recipe,
        "facts": policy.facts,
        "quality_name": policy.quality_name,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    config = with_digest(config)
    with atomic_folder(folder) as temporary:
        (temporary / WEIGHTS).write_bytes(weights)
        (temporary / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        (temporary / CARD).write_text(card(config), encoding="utf-8")


def load_policy(folder: Path | str) -> Policy:
    """Read a policy folder, and check everything in it.

    Args:
        folder: a folder that ``rltr export``, ``rltr train`` (its ``policy``) or :func:`rltr.deploy.save_policy` wrote.

    Raises:
        RltrError: if it is not a policy folder, is damaged, or was written by a newer or a much older rltr.
    """
    if not isinstance(folder, str | os.PathLike):
        raise RltrError(f"a policy is loaded from a folder, but {folder!r} is not a path")
    folder = at_home(folder)
    _require_both(folder)
    content = read_regular(folder / CONFIG, LARGEST_CONFIG)
    try:
        stored, settings = read_config(content)
        weights = read_regular(folder / WEIGHTS, most_bytes(stored.policy))
        network = from_bytes(weights, stored.policy, former=stored.format < RENAMED)
        policy = Policy(
            network,
            tuple(stored.layers),
            stored.removal,
            costs.from_dict(stored.cost),
            stored.typical_tokens,
            stored.backbone.model_dump(),
            list(stored.calibration),
            dict(stored.recipe),
            stored.facts.model_dump(exclude_defaults=True),
            stored.quality_name,
        )
        policy.check_prices()
        # Digests are compared last, because the errors above say more precisely what is wrong.
        if stored.weights_sha256 not in (None, hashlib.sha256(weights).hexdigest()):
            raise ValueError(f"{WEIGHTS} is not the file that {CONFIG} was written with: one is of another policy")
        if stored.settings_sha256 not in (None, settings):
            raise ValueError(f"{CONFIG} was changed after it was written: its fields do not have the digest in it")
    except RltrError as error:
        raise RltrError(f"{folder} cannot be used: {_short(error)}") from error
    except ValueError as error:
        raise RltrError(f"{folder} is damaged or incomplete ({_short(error)}): export it again") from error
    return policy


def _require_both(folder: Path) -> None:
    """Refuse a folder that lacks one of the two files."""
    try:
        for name in (CONFIG, WEIGHTS):
            os.stat(folder / name)
    except (FileNotFoundError, NotADirectoryError):
        is_run = os.path.exists(folder / POLICY_FOLDER / CONFIG)
        inside = f"; did you mean {str(folder / POLICY_FOLDER)!r}?" if is_run else ""
        raise RltrError(
            f"{folder} is not a policy folder: it needs {CONFIG} and {WEIGHTS}; `rltr export` writes one{inside}"
        ) from None
    except (OSError, ValueError) as error:  # no access; a null character
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RltrError(f"{folder} cannot be read: {reason.lower()}") from error


def _short(error: ValueError) -> str:
    """An error's text in one line, cut to 400 characters, because it may quote the file."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]}…"
