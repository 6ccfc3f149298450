"""The base class of the groups of fields of a recipe."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

MOST = 10**12
"""Upper limit of whole numbers in a recipe; larger ones cause unclear errors in other libraries."""
LARGE = 2**20
"""Upper limit of batch sizes."""


class Group(BaseModel):
    """A group of fields; unknown keys are refused, and instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        """Refuse values that pydantic would convert silently, or that cannot be stored or computed with later."""
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, bool):  # pydantic would read it as 0 or 1
                raise ValueError("must not be true or false")
            if isinstance(part, int) and abs(part) > MOST:
                raise ValueError(f"must be at most {MOST:,}")
            if isinstance(part, bytes):
                raise ValueError("must be text, not bytes")
            if isinstance(part, str | Path) and any("\ud800" <= character <= "\udfff" for character in str(part)):
                raise ValueError("must be text that can be encoded as UTF-8; rename the file or folder of this name")
        return value
