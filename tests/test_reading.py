"""Reading untrusted files: no waiting, no endless files, and JSON that is not ambiguous."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltr.errors import RltrError
from rltr.system.reading import DEEPEST, read_regular, strict_json


def test_a_regular_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "file", 5) == b"12345" == read_regular(tmp_path / "link", 99)
    with pytest.raises(RltrError, match="larger than the limit for such files"):
        read_regular(tmp_path / "file", 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files on Windows")
def test_special_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "terminal").symlink_to("/dev/tty")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "zero", "terminal", "folder"):
        with pytest.raises(RltrError, match="is not a regular file"):
            read_regular(tmp_path / name, 100)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("gone", "circle", "x" * 300, "file/below"):
        with pytest.raises(RltrError, match="cannot be read"):
            read_regular(tmp_path / name, 100)
    (tmp_path / "endless").symlink_to("/proc/self/maps")  # reports a size of 0 bytes
    if Path("/proc/self/maps").exists():
        with pytest.raises(RltrError, match="larger than the limit for such files"):
            read_regular(tmp_path / "endless", 100)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)  # a sparse file
    with pytest.raises(RltrError, match="larger"):
        read_regular(tmp_path / "huge", 2**20)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'[{"b": {"a": 1, "c": 0, "a": 1}}]', "'a' twice"),
        (b"[NaN]", "NaN is not a number"),
        (b"[-Infinity]", "-Infinity is not a number"),
        (b"[1e999]", "1e999 is too large"),
        (b"[1" + b"0" * 400 + b"]", "is too large"),
        (b"[1" + b"0" * 9000 + b"]", "is too large"),
        (b'["\\ud800"]', "half of a character"),
        (b'{"\\udfff": 1}', "half of a character"),
        (b"[" * 51 + b"]" * 51, "levels deep"),
        (b"[" * 500_000, "levels deep"),
        (b'{"a":' * 100_000, "levels deep"),
        (b"\xff\xfe[\x00]\x00", "utf-8"),
        (b"", "Expecting value"),
        (b"[1] 2", "Extra data"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
def test_invalid_json_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        strict_json(content)


LEAVES = st.none() | st.booleans() | st.integers(-(10**18) + 1, 10**18 - 1) | st.floats(allow_nan=False) | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_valid_json_is_read(data: object) -> None:
    text = json.dumps(data)
    if "Infinity" in text:
        with pytest.raises(ValueError):
            strict_json(text.encode())
    else:
        assert strict_json(text.encode()) == data
    assert strict_json(b"[" * DEEPEST + b"]" * DEEPEST)
