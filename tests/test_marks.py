"""Marks are given in one place, and its tables are up to date."""

import re
from pathlib import Path

import pytest

from tests import marks

ROOT = Path(__file__).parents[1]


def test_every_entry_of_the_tables_has_a_test(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.stash[marks.UNKNOWN] == [], "renamed or removed: bring tests/marks.py up to date"
    names = [name for names in marks.MARKS.values() for name in names]
    assert all((ROOT / name.partition("::")[0]).is_file() for name in names)
    assert all(list(names) == sorted(names) and len(set(names)) == len(names) for names in marks.MARKS.values())


def test_no_test_is_marked_elsewhere() -> None:
    marked = re.compile(rf"\bmark\.({'|'.join(marks.MARKS)})\b")
    assert [path.name for path in (ROOT / "tests").rglob("*.py") if marked.search(path.read_text("utf-8"))] == []


def test_an_entry_names_a_file_a_test_or_a_test_with_parameters() -> None:
    for name in ("tests/a.py", "tests/a.py::test_one", "tests/a.py::test_one[1-2]"):
        assert marks.is_named("tests/a.py::test_one[1-2]", name)
    for name in ("tests/a", "tests/a.py::test", "tests/a.py::test_one[1-]", "tests/b.py"):
        assert not marks.is_named("tests/a.py::test_one[1-2]", name)


def test_entries_without_a_test_are_found_if_their_file_was_collected() -> None:
    tests = ["tests/a.py::test_one[1]", "tests/a.py::test_one[2]"]
    names = [
        "tests/a.py",
        "tests/a.py::test_one",
        "tests/a.py::test_one[3]",
        "tests/a.py::test_gone",
        "tests/b.py::test_x",
    ]
    assert marks.unknown(tests, names) == ["tests/a.py::test_one[3]", "tests/a.py::test_gone"]


def test_marks_are_given_before_tests_are_selected(request: pytest.FixtureRequest) -> None:
    """Checked in the current run: tests of the tables have their marks, and no others have."""
    for item in request.session.items:
        for mark, names in marks.MARKS.items():
            named = any(marks.is_named(item.nodeid, name) for name in names)
            assert (item.get_closest_marker(mark) is not None) == named, item.nodeid
