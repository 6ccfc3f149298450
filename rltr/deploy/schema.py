"""The schema of config.json in a policy folder."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from rltr.deploy.calibration import CalibrationPoint
from rltr.errors import RltrError
from rltr.policies.network import PolicyConfig
from rltr.runtime.decision import Removal
from rltr.system import former_names
from rltr.system.former_names import present_names, refuse_present
from rltr.system.reading import strict_json
from rltr.version import __version__

FORMAT = 4
"""The current format. It is increased if older versions cannot read new folders, or would decide differently."""
OLDEST = 2
"""The oldest format that can be read; it has no digests."""
RENAMED = 4
"""The first format with the present names (:mod:`rltr.system.former_names`)."""
DECIDE = ("backbone", "layers", "removal", "policy", "cost", "typical_tokens", "calibration")
"""Fields that determine which tokens leave; their digest is stored, too. The other fields are information."""
CLOSED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)
Text = Annotated[str, Field(max_length=4096)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StoredBackbone(BaseModel):
    """The model that a policy was trained for (see :func:`rltr.deploy.describe`)."""

    model_config = CLOSED

    name: Text
    model_type: Text
    fingerprint: Digest
    fingerprint_in_float16: Digest | None = None
    depth: int = Field(ge=2)
    width: int = Field(ge=1)
    tower: Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=200)] | None = None


class StoredFacts(BaseModel):
    """Test results of a policy, for its card."""

    model_config = CLOSED

    table: list[dict[Text, Text | int | float]] = []
    environment: Text = ""

    @model_validator(mode="after")
    def _same_columns(self) -> "StoredFacts":
        if any(row.keys() != self.table[0].keys() for row in self.table):
            raise ValueError("every row of the table must have the same columns")
        return self


class StoredPolicy(BaseModel):
    """Everything of a policy but its weights."""

    model_config = CLOSED

    format: int = Field(ge=OLDEST, le=FORMAT)
    rltr: Text
    backbone: StoredBackbone
    layers: list[int] = Field(min_length=1)
    removal: Removal
    policy: PolicyConfig
    cost: dict[str, JsonValue]
    typical_tokens: int = Field(ge=1)
    calibration: list[CalibrationPoint] = Field(max_length=10_000)
    recipe: dict[str, JsonValue]
    facts: StoredFacts
    quality_name: Annotated[Text, Field(min_length=1, max_length=100)]
    weights_sha256: Digest | None = None
    settings_sha256: Digest | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "StoredPolicy":
        """Refuse fields that contradict each other, though each is valid by itself."""
        layers, depth, shape = self.layers, self.backbone.depth, self.policy
        if layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= depth:
            raise ValueError(f"layers {layers} must be in ascending order, each from 0 to {depth - 1}")
        if (shape.depth, shape.backbone_width) != (depth, self.backbone.width):
            raise ValueError(
                f"policy is for {shape.depth} layers of width {shape.backbone_width}, backbone has {depth} of "
                f"{self.backbone.width}"
            )
        if odd := [name for name in ("data", "learner") if not isinstance(self.recipe.get(name, {}), dict)]:
            raise ValueError(f"recipe.{odd[0]} must be a group of fields")
        if self.typical_tokens > shape.grid:
            raise ValueError(f"typical_tokens {self.typical_tokens} must be at most policy.grid, {shape.grid}")
        if len({point.cost_weight for point in self.calibration}) < len(self.calibration):
            raise ValueError("calibration has a cost weight twice")
        if len({point.dense_quality for point in self.calibration}) > 1:
            raise ValueError("calibration has different values of dense_quality, but there is one dense model")
        if any(
            len({point.drop_bound is None, point.confidence is None, point.inputs is None}) > 1
            for point in self.calibration
        ):
            raise ValueError(
                "a calibration point has only some of drop_bound, confidence and inputs; it needs all three or none"
            )
        if len({point.time is None for point in self.calibration}) > 1:
            raise ValueError("calibration has times at only some of its cost weights")
        digests = (self.weights_sha256, self.settings_sha256)
        if any((digest is None) != (self.format == OLDEST) for digest in digests):
            raise ValueError(f"format {self.format} {'has no' if self.format == OLDEST else 'needs both'} digests")
        return self


def read_config(content: bytes) -> tuple[StoredPolicy, str]:
    """Parse the content of a config.json.

    Returns:
        Its fields, and the digest of its settings, which equals the stored one unless the file was changed.

    Raises:
        RltrError: if a newer or a much older rltr wrote it.
        ValueError: if it is damaged; the message names the field.
    """
    data = strict_json(content)
    if not isinstance(data, dict):
        raise ValueError("config.json is not a JSON object")
    _check_format(data)
    try:
        stored = StoredPolicy.model_validate_json(json.dumps(_in_present_names(data)))
    except ValidationError as error:
        raise ValueError(_first_error(error)) from error
    return stored, digest_of_settings(data)


def digest_of_settings(config: Mapping[str, Any]) -> str:
    """SHA-256 of the fields :data:`DECIDE`, independent of their order and of whitespace."""
    former = {new: old for old, new in former_names.POLICY_FOLDER.items()} if _has_former_names(config) else {}
    names = [former.get(name, name) for name in DECIDE]
    return hashlib.sha256(_canonical({name: config[name] for name in names})).hexdigest()


def with_digest(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the digest of the settings to a config, and check that it can be read again.

    Lone surrogates, which Linux paths may contain, become question marks.

    Raises:
        RltrError: if a field could not be read again.
    """
    plain = json.loads(json.dumps(config, ensure_ascii=False).encode("utf-8", "replace"))
    plain["settings_sha256"] = digest_of_settings(plain)
    try:
        read_config(json.dumps(plain).encode())
    except RltrError:
        raise
    except ValueError as error:
        raise RltrError(f"this policy cannot be saved, because it could not be read again: {error}") from error
    return dict(plain)


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _check_format(data: Mapping[str, Any]) -> None:
    found, version = data.get("format"), data.get("rltr")
    if not isinstance(found, int) or isinstance(found, bool):
        return  # the schema refuses it
    if found > FORMAT:
        raise RltrError(f"it was written by rltr {version}, which rltr {__version__} cannot read: update rltr")
    if found < OLDEST:
        raise RltrError(
            f"it was written by the older rltr {version}, whose prices had another unit, so this version would remove "
            f"other tokens than were measured. Train it again, or run it with rltr {version}"
        )


def _has_former_names(config: Mapping[str, Any]) -> bool:
    return config.get("format") in range(OLDEST, RENAMED)


def _in_present_names(data: dict[str, Any]) -> dict[str, Any]:
    """A config with current field names, if it has an earlier format.

    Raises:
        RltrError: if it has current names although its format is earlier.
    """
    if not _has_former_names(data):
        return data
    refuse_present(data, former_names.POLICY_FOLDER, "config.json")
    data = present_names(data, former_names.POLICY_FOLDER, "config.json")
    policy, table, recipe = data.get("policy"), data.get("calibration"), data.get("recipe")
    if isinstance(policy, dict):
        refuse_present(policy, former_names.POLICY_CONFIG, "policy in config.json")
        data["policy"] = present_names(policy, former_names.POLICY_CONFIG, "policy in config.json")
    if isinstance(table, list) and all(isinstance(point, dict) for point in table):
        data["calibration"] = [present_names(point, former_names.CALIBRATION, "calibration") for point in table]
    if isinstance(recipe, dict):
        data["recipe"] = former_names.recipe_in_present_names(recipe, "recipe in config.json")
    return data


def _first_error(error: ValidationError) -> str:
    """The first validation error and its field, as one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    shown = "" if first["type"] in ("missing", "value_error") else f", not {repr(first['input'])[:60]}"
    message = first["msg"].removeprefix("Value error, ")
    return ": ".join(part for part in (where, f"{message[:1].lower()}{message[1:]}{shown}") if part)
