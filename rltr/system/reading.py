"""Read files from untrusted sources safely: no devices, a size limit, and no ambiguous JSON."""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from rltr.errors import RltrError

LARGEST_CONFIG = 2**20
"""Limit of bytes of a config.json; a policy's has about 10,000."""
DEEPEST = 50
"""Limit of nesting levels in a JSON file."""
LONGEST_INTEGER = 18
"""Limit of digits of an integer, so that it fits into an int64."""


def read_regular(path: Path, most: int) -> bytes:
    """Read the content of a regular file.

    Devices and pipes are refused before they are opened, because reading them may block or never end.

    Args:
        path: the file, or a link to it.
        most: size limit in bytes.

    Raises:
        RltrError: if it is not a regular file, is larger than the limit, or cannot be read.
    """
    # The opened file is checked again, in case a pipe has replaced it meanwhile; O_NONBLOCK avoids waiting for one.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        _require_regular(path, os.stat(path), most)
        with open(os.open(path, flags), "rb") as file:
            _require_regular(path, os.fstat(file.fileno()), most)
            content = file.read(most + 1) or b""
    except OSError as error:
        fix = "; ask its owner for permission to read it" if isinstance(error, PermissionError) else ""
        raise RltrError(f"{str(path)!r} cannot be read: {(error.strerror or str(error)).lower()}{fix}") from error
    if len(content) > most:
        raise _too_large(path, most)
    return content


def _require_regular(path: Path, status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RltrError(
            f"{str(path)!r} is not a regular file, but a folder, a device or a pipe: replace it by the file"
        )
    if status.st_size > most:
        raise _too_large(path, most)


def _too_large(path: Path, most: int) -> RltrError:
    return RltrError(
        f"{str(path)!r} is larger than the limit for such files ({most} bytes): it is damaged, or another kind of file"
    )


def strict_json(content: bytes) -> Any:
    """Parse JSON in UTF-8, and refuse everything that parsers read differently.

    Refused are duplicate keys, ``NaN`` and ``Infinity``, numbers beyond float64 and int64, lone surrogates, and nesting
    deeper than :data:`DEEPEST`.

    Raises:
        ValueError: with the reason.
    """
    try:
        data = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError:
        raise ValueError("it contains half of a character (a lone surrogate)") from None
    if _depth(data) > DEEPEST:
        raise _too_deep()
    return data


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {DEEPEST} levels deep")


def _depth(data: Any) -> int:
    """The nesting depth of lists and objects."""
    depth, level = 0, [data]
    while level := [part for part in level if isinstance(part, dict | list)]:
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
        depth += 1
    return depth


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has the key {name[:50]!r} twice")
        found[name] = value
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > LONGEST_INTEGER:
        raise ValueError(f"the number {text[:20]}… is too large")
    return int(text)
