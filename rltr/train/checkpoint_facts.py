"""JSON file of a checkpoint: its schema, and the digests that tie it to the file of tensors."""

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
"""Version of the format; increased whenever the contents change."""
OLDEST = 2
"""Oldest format that can still be read."""
RENAMED = 3
"""First format with the current names of tensors (:mod:`rltr.system.former_names`)."""
LARGEST = 2**28
"""Maximum size of the JSON file in bytes. A thousand generators and a latency table take half a million."""
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Plain(BaseModel):
    """Pydantic model that accepts exactly the declared fields and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Deviation(Plain):
    """State of a :class:`~rltr.train.advantages.RunningDeviation`."""

    decay: Share
    variance: Annotated[float, Field(ge=0)]
    weight: Share


class Counters(Plain):
    """Internal state of numpy's PCG64 generator: two 128-bit integers."""

    state: Annotated[int, Field(ge=0, lt=2**128)]
    inc: Annotated[int, Field(ge=0, lt=2**128)]


class Generator(Plain):
    """State of the random generator of one group of rollouts, as numpy returns it."""

    bit_generator: Literal["PCG64"]
    state: Counters
    has_uint32: Literal[0, 1]
    uinteger: Annotated[int, Field(ge=0, lt=2**32)]


class Facts(Plain):
    """Contents of the JSON file.

    Attributes:
        format: version of the checkpoint format.
        version: version of rltr that wrote the checkpoint.
        timesteps: environment steps so far, one per decision and rollout.
        updates: epochs so far, that is passes over the rollouts of an update.
        deviation: running standard deviation of the score advantages.
        sampler: state of the random generator of each group of rollouts.
        extra: further data from the caller of ``save_checkpoint``.
        tensors: SHA-256 of the file of tensors.
        digest: SHA-256 of all other fields. It leaves out the recipe in ``extra``, whose paths may change and which is
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
    """Write the JSON file beside the file of tensors, which must be in ``folder`` already."""
    whole = {"format": FORMAT, "version": __version__, **facts, "tensors": file_digest(folder / TENSORS)}
    text = json.dumps({**whole, "digest": facts_digest(json.loads(json.dumps(whole)))}, indent=1)
    (folder / FACTS).write_text(text, encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """Read and validate the JSON file of a checkpoint.

    Raises:
        RltrError: if there is no checkpoint, if it is damaged, or if another version of rltr wrote it.
    """
    if not (folder / FACTS).is_file() or not (folder / TENSORS).is_file():
        raise RltrError(f"there is no checkpoint in {folder}: start without --resume, or name the folder of a run")
    try:
        facts = json.loads(read_regular(folder / FACTS, LARGEST).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or numbers or nesting too long
        raise error if isinstance(error, RltrError) else damaged(folder, str(error)) from error
    if isinstance(facts, dict) and facts.get("format") not in range(OLDEST, FORMAT + 1) and "version" in facts:
        raise RltrError(
            f"the checkpoint in {folder} was written by another version of rltr ({str(facts['version'])[:20]}, this is "
            f"{__version__}): resume with that version, or train in a new folder"
        )
    try:
        Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(folder, f"{FACTS}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    assert isinstance(facts, dict)
    return facts


def check_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Check the digest of the JSON file.

    Raises:
        RltrError: if the contents differ from what was written.
    """
    if facts_digest(facts) != facts["digest"]:
        raise damaged(folder, f"{FACTS} was changed after it was written")


def facts_digest(facts: dict[str, Any]) -> str:
    """SHA-256 of the facts without the digest itself and the recipe."""
    extra = {name: value for name, value in facts["extra"].items() if name != "recipe"}
    rest = {name: value for name, value in facts.items() if name != "digest"}
    return hashlib.sha256(json.dumps({**rest, "extra": extra}, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(folder: Path, reason: str) -> RltrError:
    """Error for a damaged checkpoint, with the reason in one line."""
    reason = " ".join(reason.split())
    return RltrError(f"the checkpoint in {folder} is damaged ({reason[:300]}): start the training again")
