"""An error of somebody else's code, told as what it means here: a model cannot be run so, and where it stumbled."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rltr.errors import RltrError


@contextmanager
def error_context(what: str, fix: str) -> Iterator[None]:
    """Turn any error of the block into an :class:`RltrError`, with the original as its cause.

    Args:
        what: what was being done: "its native forward pass".
        fix: what the user can do about it.

    Raises:
        RltrError: "WHAT ended in ValueError: … (modeling_xmod.py:732): FIX". One that is raised inside passes through.
    """
    try:
        yield
    except RltrError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split()) or "no message"
        raise RltrError(
            f"{what} ended in {type(error).__name__}: {said} ({Path(place.filename).name}:{place.lineno}): {fix}"
        ) from error
