"""The policy folder: weights in safetensors, everything else in JSON, and a card. Nothing in it can run code."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rltr import cost as costs
from rltr.backbone import Backbone
from rltr.cost import CostModel
from rltr.errors import RltrError
from rltr.export.calibration import Operating
from rltr.export.card import card
from rltr.files import atomic_folder
from rltr.folders import POLICY_FILE as WEIGHTS
from rltr.forward import Dropped
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.pricing import Pricing
from rltr.tensor_files import save_file
from rltr.version import __version__

CONFIG = "config.json"
CARD = "README.md"
FORMAT = 2
"""Raised when older versions could no longer read a folder, or its policy would decide otherwise now."""


@dataclass
class Policy:
    """A trained policy with everything needed to run it.

    Attributes:
        network: the token policy.
        layers: its decision layers.
        dropped: what happens to dropped tokens.
        cost: the cost model its prices come from.
        typical_tokens: tokens of a typical training input, the unit of its prices.
        backbone: what it was trained for: ``name``, ``model_type``, ``fingerprint``, ``depth``, ``width``,
            and ``tower`` if only a part of it is reduced.
        calibration: what cost weights give on the validation split.
        recipe: the recipe it was trained with.
        facts: what it was measured to do, for its card: optionally ``table`` (rows of test results as mappings) and
            ``environment`` (one line).
        quality_name: what the calibrated quality is.
    """

    network: TokenPolicy
    layers: tuple[int, ...]
    dropped: Dropped
    cost: CostModel
    typical_tokens: int
    backbone: dict[str, Any]
    calibration: list[Operating] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    quality_name: str = "accuracy"

    @property
    def pricing(self) -> Pricing:
        """Prices of the backbone it was trained for."""
        return Pricing(self.cost, self.layers, self.backbone["depth"], self.typical_tokens)

    def check_fits(self, backbone: Backbone) -> None:
        """Refuse any model but the one this policy was trained for.

        Raises:
            RltrError: with both fingerprints.
        """
        if backbone.fingerprint != self.backbone["fingerprint"]:
            raise RltrError(
                f"this policy was trained for {self.backbone['name']} ({self.backbone['model_type']}, fingerprint "
                f"{self.backbone['fingerprint'][:16]}), but the model is {backbone.name} "
                f"({backbone.config.model_type}, fingerprint {backbone.fingerprint[:16]}): load the weights it was "
                f"trained for, in the same dtype, or train a policy for this model"
            )


def describe(backbone: Backbone) -> dict[str, Any]:
    """What a policy remembers of the model it was trained for."""
    return {
        "name": backbone.name,
        "model_type": backbone.config.model_type,
        "fingerprint": backbone.fingerprint,
        "depth": backbone.depth,
        "width": backbone.width,
        "tower": backbone.tower,
    }


def save_policy(policy: Policy, folder: Path) -> None:
    """Write a policy folder; what ``folder`` held before is replaced once the new one is complete.

    Raises:
        RltrError: if ``folder`` is the one in use.
    """
    config = {
        "format": FORMAT,
        "rltr": __version__,
        "backbone": policy.backbone,
        "layers": list(policy.layers),
        "dropped": policy.dropped,
        "policy": policy.network.config.to_dict(),
        "cost": policy.cost.to_dict(),
        "typical_tokens": policy.typical_tokens,
        "calibration": [point.to_dict() for point in policy.calibration],
        "recipe": policy.recipe,
        "facts": policy.facts,
        "quality_name": policy.quality_name,
    }
    with atomic_folder(folder) as temporary:
        weights = {name: value.detach().cpu().contiguous() for name, value in policy.network.state_dict().items()}
        save_file(weights, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        (temporary / CARD).write_text(card(config), encoding="utf-8")


def load_policy(folder: Path | str) -> Policy:
    """Read a policy folder.

    Raises:
        RltrError: if it is not one, it is damaged, or it is from a newer rltr or one too old.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise RltrError(f"{folder} is no policy folder: it needs {CONFIG} and {WEIGHTS}; `rltr export` writes one")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] > FORMAT:
            raise RltrError(
                f"{folder} was written by rltr {config['rltr']}, which this {__version__} cannot read: update rltr"
            )
        if config["format"] < FORMAT:
            raise RltrError(
                f"{folder} is from an older rltr {config['rltr']}, whose prices had another unit: this one would drop "
                f"other tokens than were measured. Train it again, or run it with the rltr it is from"
            )
        with torch.device("cpu"):  # whatever torch.set_default_device says
            network = TokenPolicy(PolicyConfig(**config["policy"]))
        network.load_state_dict(load_file(folder / WEIGHTS))
        return Policy(
            network.eval().requires_grad_(False),
            tuple(config["layers"]),
            config["dropped"],
            costs.from_dict(config["cost"]),
            config["typical_tokens"],
            config["backbone"],
            [Operating.from_dict(point) for point in config["calibration"]],
            config["recipe"],
            config["facts"],
            config["quality_name"],
        )
    except RltrError:
        raise  # says what is wrong already
    except (KeyError, TypeError, AttributeError, ValueError, SafetensorError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RltrError(f"{folder} is damaged or incomplete ({reason}): export it again") from error
