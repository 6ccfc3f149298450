"""Turn errors from other libraries into an ``RltrError`` that says what failed, where, and how to fix it."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rltr.errors import RltrError


@contextmanager
def error_context(what: str, fix: str) -> Iterator[None]:
    """Turn any error of the block into an :class:`RltrError`, with the original as its cause.

    Args:
        what: the operation, for the message: "its native forward pass".
        fix: what the user can do.

    Raises:
        RltrError: "WHAT ended in ValueError: … (modeling_xmod.py:732): FIX". An ``RltrError`` of the block is re-raised
            unchanged.
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
