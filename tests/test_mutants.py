"""The table of mutants fits the code, and the script reports the result of each."""

import ast
import asyncio
import importlib.util
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("mutants", ROOT / "scripts" / "mutants.py")
assert SPEC and SPEC.loader
script: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)
MUTANTS = script.read_table(script.TABLE)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_every_mutant_still_fits_the_code(mutant: Any) -> None:
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    ast.parse(script.mutated(source, mutant))  # a file with a syntax error fails every test, which shows nothing
    assert mutant.wrong.endswith(".") and mutant.tests
    for test in mutant.tests:
        path, *inside = test.partition("[")[0].split("::")
        assert (ROOT / path).exists(), f"{path} is gone"
        for name in inside:
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {name}"


def test_every_room_that_results_depend_on_has_mutants() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 130
    rooms = {mutant.file.split("/")[1] for mutant in MUTANTS}
    assert rooms >= {
        "runtime",
        "selectors",
        "policies",
        "cost",
        "tasks",
        "dense",
        "envs",
        "train",
        "evaluate",
        "deploy",
    }


@pytest.mark.parametrize("source", ["nothing", "a = 1\na = 1"])
def test_a_text_that_is_not_found_once_is_refused(source: str) -> None:
    mutant = script.Mutant("name", "file.py", "a = 1", "a = 2", "It is wrong.", ("tests",))
    with pytest.raises(ValueError, match=r"'a = 1' occurs [02] times in file\.py, not once"):
        script.mutated(source, mutant)


HALF = """
def half(number):
    return number / 2


def unused(number):
    return number + 1
"""
TABLE = """
[[mutant]]
name = "noticed"
file = "half.py"
text = "number / 2"
becomes = "number / 3"
wrong = "A half is a third."
tests = ["test_half.py"]

[[mutant]]
name = "unnoticed"
file = "half.py"
text = "number + 1"
becomes = "number + 2"
wrong = "One is two."
tests = ["test_half.py"]

[[mutant]]
name = "harmless"
file = "half.py"
text = "number / 2"
becomes = "0.5 * number"
wrong = "Nothing."
tests = ["test_half.py"]
reason = "It is the same number."

[[mutant]]
name = "senseless"
file = "half.py"
text = "number / 2"
becomes = "number /"
wrong = "It is no Python."
tests = ["test_half.py"]
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository with a table of mutants."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # loading plugins takes longer than these tests
    (tmp_path / "half.py").write_text(HALF)
    (tmp_path / "test_half.py").write_text("from half import half\n\n\ndef test_half():\n    assert half(3) == 1.5\n")
    (tmp_path / "mutants.toml").write_text(TABLE)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def test_every_mutant_is_tested_and_the_code_is_left_unchanged(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in repository.glob("*.py")}
    assert script.main(["--processes", "2"], repository, repository / "mutants.toml") == 1
    printed = capsys.readouterr().out
    verdicts = {line.split()[3]: line for line in printed.splitlines()[:-1]}
    assert verdicts["noticed"].startswith("killed") and verdicts["noticed"].endswith("test_half.py::test_half")
    assert verdicts["unnoticed"].startswith("SURVIVED")
    assert verdicts["harmless"].startswith("SURVIVED") and verdicts["harmless"].endswith("It is the same number.")
    assert verdicts["senseless"].startswith("broken")
    summary = printed.splitlines()[-1]
    assert "4 mutants, 2 as they should be" in summary and "unnoticed" in summary and "senseless" in summary
    assert {path: path.read_bytes() for path in repository.glob("*.py")} == before
    assert script.main(["--unchecked", "noti*"], repository, repository / "mutants.toml") == 0


def test_tests_that_fail_without_a_mutant_are_an_error(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "test_half.py").write_text("def test_half():\n    assert False\n")
    assert script.main(["noticed"], repository, repository / "mutants.toml") == 2
    assert "fail without any mutant" in capsys.readouterr().out


def test_a_mutant_with_a_reason_that_a_test_notices_is_reported(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = repository / "mutants.toml"
    table.write_text(TABLE.replace('"0.5 * number"', '"0.6 * number"'))
    assert script.main(["--unchecked", "harmless"], repository, table) == 1
    assert "look at: harmless" in capsys.readouterr().out


def test_tests_that_do_not_end_are_stopped(repository: Path) -> None:
    (repository / "test_half.py").write_text("import time\n\n\ndef test_half():\n    time.sleep(60)\n")
    begun = time.monotonic()
    status, printed = asyncio.run(script.run_tests(repository, ["test_half.py"], 0.5))
    assert time.monotonic() - begun < 30
    assert script.judge(status, printed, 0.5).verdict == "timed out"


@pytest.mark.parametrize("wrong", [["nobody"], ["--processes", "many"]])
def test_unknown_mutants_and_options_are_refused(
    repository: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        script.main(wrong, repository, repository / "mutants.toml")
    assert refused.value.code == 2 and wrong[-1] in capsys.readouterr().err


def test_the_list_shows_what_each_mutant_breaks(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--list"], repository, repository / "mutants.toml") == 0
    assert "noticed: A half is a third." in capsys.readouterr().out
