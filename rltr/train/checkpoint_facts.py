"""What a checkpoint says beside its tensors: JSON of one form, and digests that tie both files together."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rltr.errors import RltrError
from rltr.system.reading import read_regular
from rltr.version import __version__

TENSORS = "state.safetensors"
FACTS = "state.json"
FORMAT = 3
"""Raised when a checkpoint holds something else."""
OLDEST = 2
"""The oldest format that is still read."""
RENAMED = 3
"""The first format with the present names of tensors (:mod:`rltr.system.former_names`)."""
LARGEST = 2**28
"""Bytes of the JSON file; a thousand generators and a table of prices take half a million."""
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Plain(BaseModel):
    """Fields of exactly these names and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Deviation(Plain):
    """A :class:`~rltr.train.advantages.RunningDeviation`."""

    decay: Share
    variance: Annotated[float, Field(ge=0)]
    weight: Share


class Counters(Plain):
    """The inside of numpy's generator: two numbers of 128 bits."""

    state: Annotated[int, Field(ge=0, lt=2**128)]
    inc: Annotated[int, Field(ge=0, lt=2**128)]


class Generator(Plain):
    """The state of one group's generator, as numpy gives it."""

    bit_generator: Literal["PCG64"]
    state: Counters
    has_uint32: Literal[0, 1]
    uinteger: Annotated[int, Field(ge=0, lt=2**32)]


class Facts(Plain):
    """What the JSON file holds.

    Attributes:
        format: of the checkpoint.
        version: of rltr that wrote it.
        timesteps: decisions of single rollouts that were trained on.
        updates: passes over an update's rollouts.
        deviation: of scores.
        sampler: one state for each group of rollouts.
        extra: whatever its owner keeps.
        tensors: SHA-256 of the other file.
        digest: of everything else here but the recipe in ``extra``: that names places, which may change, and is
            compared field by field.
    """

    format: int
    version: str
    timesteps: Count
    updates: Count
    deviation: Deviation
    sampler: Annotated[list[Generator], Field(min_length=1)]
    extra: dict[str, Any]
    tensors: Digest
    digest: Digest


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write the JSON file for the tensors that lie in ``folder`` already."""
    whole = {"format": FORMAT, "version": __version__, **facts, "tensors": file_digest(folder / TENSORS)}
    text = json.dumps({**whole, "digest": facts_digest(json.loads(json.dumps(whole)))}, indent=1)
    (folder / FACTS).write_text(text, encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """What a checkpoint says beside its tensors.

    Raises:
        RltrError: if there is no checkpoint, one of another version, or a damaged one.
    """
    if not (folder / FACTS).is_file() or not (folder / TENSORS).is_file():
        raise RltrError(f"there is no checkpoint in {folder}: start without --resume, or name the folder of a run")
    try:
        facts = json.loads(read_regular(folder / FACTS, LARGEST).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no text, numbers or nesting without end
        raise error if isinstance(error, RltrError) else damaged(folder, str(error)) from error
    if isinstance(facts, dict) and facts.get("format") not in range(OLDEST, FORMAT + 1) and "version" in facts:
        raise RltrError(
            f"the checkpoint in {folder} was written by another version of rltr ({str(facts['version'])[:20]}, this is "
            f"{__version__}): go on with that version, or train in a new folder"
        )
    try:
        Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(folder, f"{FACTS}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    assert isinstance(facts, dict)
    return facts


def check_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Refuse facts that are not what was written.

    Raises:
        RltrError: if they were changed, or damaged, since.
    """
    if facts_digest(facts) != facts["digest"]:
        raise damaged(folder, f"{FACTS} was changed after it was written")


def facts_digest(facts: dict[str, Any]) -> str:
    """SHA-256 of facts, but for the digest itself and the recipe."""
    extra = {name: value for name, value in facts["extra"].items() if name != "recipe"}
    rest = {name: value for name, value in facts.items() if name != "digest"}
    return hashlib.sha256(json.dumps({**rest, "extra": extra}, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(folder: Path, reason: str) -> RltrError:
    """What is said of a checkpoint that cannot be used, in one line."""
    reason = " ".join(reason.split())
    return RltrError(f"the checkpoint in {folder} is damaged ({reason[:300]}): start the training again")
