"""What every group of fields of a recipe has in common."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

MOST = 10**12
"""What no whole number in a recipe may exceed: beyond, libraries end in errors of their own."""
LARGE = 2**20
"""Rows of a batch, at most."""


class Group(BaseModel):
    """Some fields that belong together; unknown keys are refused, nothing changes once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        """Refuse what would be read as something else, or could not be written down or counted with later."""
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, bool):  # pydantic would read it as 0 or 1
                raise ValueError("must not be a truth value")
            if isinstance(part, int) and abs(part) > MOST:
                raise ValueError(f"must be at most {MOST:,}")
            if isinstance(part, bytes):
                raise ValueError("must be text, not bytes")
            if isinstance(part, str | Path) and any("\ud800" <= character <= "\udfff" for character in str(part)):
                raise ValueError("must be text that can be written as UTF-8; rename what is called that")
        return value
