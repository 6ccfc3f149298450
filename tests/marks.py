"""Tests with the marks ``slow`` and ``assets``; the marks are given in these tables only.

A test is slow if it takes more than ten seconds of processor time; ``pytest -m 'not slow'`` leaves it out. To find
slow tests, run the suite with ``--durations=40`` on an idle machine.

An entry is a file, a test in it, or a test with its parameters, as pytest prints them. An entry without a test makes
``tests/test_marks.py`` fail.
"""

from collections.abc import Iterable, Mapping, Sequence

import pytest

SLOW: tuple[str, ...] = (
    "tests/backbone/test_replaced_parts.py::test_compiled_models_run_reduced_and_compiled_again",
    "tests/benchmarks/test_gpu.py::test_everything_in_small_is_one_file_of_finite_numbers",
    "tests/benchmarks/test_gpu.py::test_the_same_runs_where_tensors_are_on_another_device",
    "tests/dense/test_cache_folder.py::test_processes_share_a_folder",
    "tests/deploy/test_mutations.py::test_a_damaged_folder_is_refused_or_decides_as_the_sound_one[2000-0]",
    "tests/jobs/test_interruption.py",
)
ASSETS: tuple[str, ...] = (
    "tests/examples/test_real_data.py::test_real_data_has_the_expected_number_of_texts",
    "tests/examples/test_real_data.py::test_the_real_minilm_is_unchanged_and_exact",
)
MARKS: Mapping[str, Sequence[str]] = {"slow": SLOW, "assets": ASSETS}
UNKNOWN = pytest.StashKey[list[str]]()
"""Entries of the tables for which pytest found no test."""


@pytest.hookimpl(tryfirst=True)  # before -m and -k select tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of the tables."""
    for item in items:
        for mark, names in MARKS.items():
            if any(is_named(item.nodeid, name) for name in names):
                item.add_marker(mark)
    # If single tests are selected, the rest of their file is not collected, so its entries cannot be checked.
    asked = [] if any("::" in argument for argument in config.args) else [item.nodeid for item in items]
    config.stash[UNKNOWN] = unknown(asked, [name for names in MARKS.values() for name in names])


def is_named(test: str, name: str) -> bool:
    """Whether an entry of the tables names a test, given by its node id."""
    return test == name or test.startswith((f"{name}::", f"{name}["))


def unknown(tests: Iterable[str], names: Iterable[str]) -> list[str]:
    """Entries without a test, among those whose file was collected."""
    tests = list(tests)
    files = {test.partition("::")[0] for test in tests}
    return [
        name for name in names if name.partition("::")[0] in files and not any(is_named(test, name) for test in tests)
    ]
