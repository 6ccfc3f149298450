"""Marks have one home, and it is up to date."""

import re
from pathlib import Path

import pytest

from tests import marks

ROOT = Path(__file__).parents[1]


def test_every_name_in_the_tables_is_a_test(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.stash[marks.UNKNOWN] == [], "renamed or removed: bring tests/marks.py up to date"
    names = [name for names in marks.MARKS.values() for name in names]
    assert all((ROOT / name.partition("::")[0]).is_file() for name in names)
    assert all(list(names) == sorted(names) and len(set(names)) == len(names) for names in marks.MARKS.values())


def test_no_test_is_marked_elsewhere() -> None:
    marked = re.compile(rf"\bmark\.({'|'.join(marks.MARKS)})\b")
    assert [path.name for path in (ROOT / "tests").rglob("*.py") if marked.search(path.read_text("utf-8"))] == []


def test_a_name_stands_for_a_file_a_test_or_one_of_its_parameters() -> None:
    for name in ("tests/a.py", "tests/a.py::test_one", "tests/a.py::test_one[1-2]"):
        assert marks.is_named("tests/a.py::test_one[1-2]", name)
    for name in ("tests/a", "tests/a.py::test", "tests/a.py::test_one[1-]", "tests/b.py"):
        assert not marks.is_named("tests/a.py::test_one[1-2]", name)


def test_names_without_a_test_are_found_where_their_file_was_read() -> None:
    tests = ["tests/a.py::test_one[1]", "tests/a.py::test_one[2]"]
    names = [
        "tests/a.py",
        "tests/a.py::test_one",
        "tests/a.py::test_one[3]",
        "tests/a.py::test_gone",
        "tests/b.py::test_x",
    ]
    assert marks.unknown(tests, names) == ["tests/a.py::test_one[3]", "tests/a.py::test_gone"]


def test_the_marks_are_given_before_tests_are_chosen(request: pytest.FixtureRequest) -> None:
    """This very run has them: what is named is marked, and nothing else."""
    for item in request.session.items:
        for mark, names in marks.MARKS.items():
            named = any(marks.is_named(item.nodeid, name) for name in names)
            assert (item.get_closest_marker(mark) is not None) == named, item.nodeid
