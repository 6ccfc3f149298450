"""Mutation testing: break the code on purpose, one edit at a time, and check that tests fail.

    python scripts/mutants.py                      # all of scripts/mutants.toml, one after the other
    python scripts/mutants.py 'price*' seed-unused # only mutants with these names
    python scripts/mutants.py --list

Every mutant is one edit that makes the code wrong, with the tests that should fail because of it. They run in a copy of
the repository, so the working tree is not changed. The exit status is 1 if the tests of a mutant without a ``reason``
pass or time out, or if the tests of a mutant with a ``reason`` fail.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "scripts" / "mutants.toml"
TIMEOUT = 600.0
"""Time limit for the tests of one mutant, in seconds, because a mutant may cause an endless loop."""
PYTEST = ("-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:randomly", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Mutant:
    """One edit that makes the code wrong.

    Attributes:
        name: its name on the command line.
        file: the edited file, relative to the repository.
        text: the replaced text, which occurs exactly once in the file.
        becomes: the replacement.
        wrong: a sentence that says what is wrong with the mutant.
        tests: pytest arguments that select the tests that should fail.
        reason: why no test can detect it; empty for all others.
    """

    name: str
    file: str
    text: str
    becomes: str
    wrong: str
    tests: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """The result of a mutant's tests.

    Attributes:
        verdict: ``killed``, ``SURVIVED``, ``timed out``, or ``broken`` if no test could run.
        detail: the test that failed, or the end of pytest's output.
        seconds: the duration of the tests.
    """

    verdict: str
    detail: str
    seconds: float


def read_table(path: Path) -> list[Mutant]:
    """The mutants of a TOML file, in its order."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def mutated(source: str, mutant: Mutant) -> str:
    """``source`` with the mutant's edit.

    Raises:
        ValueError: if its text does not occur exactly once, or nothing would change.
    """
    found = source.count(mutant.text)
    if found != 1:
        raise ValueError(
            f"{mutant.name}: {mutant.text!r} occurs {found} times in {mutant.file}, not once: the code has changed, "
            "so bring the mutant up to date"
        )
    if mutant.text == mutant.becomes:
        raise ValueError(f"{mutant.name} changes nothing")
    return source.replace(mutant.text, mutant.becomes)


def chosen(mutants: Sequence[Mutant], patterns: Sequence[str]) -> list[Mutant]:
    """The mutants whose name matches one of the patterns; all if there are no patterns.

    Raises:
        ValueError: if a pattern matches no name.
    """
    for pattern in patterns:
        if not any(fnmatch(mutant.name, pattern) for mutant in mutants):
            raise ValueError(f"no mutant is called {pattern!r}; --list shows them all")
    return [mutant for mutant in mutants if not patterns or any(fnmatch(mutant.name, own) for own in patterns)]


def copy_repository(root: Path, to: Path) -> None:
    """Copy all files that are tracked by git or not ignored, including uncommitted changes."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, dict.fromkeys(names)):
        if not os.path.lexists(root / name):
            continue  # deleted, but not committed yet
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, to / name, follow_symlinks=False)


async def run_tests(copy: Path, tests: Sequence[str], timeout: float) -> tuple[int | None, str]:
    """Pytest's exit status (None if it did not end in time) and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *PYTEST, *tests),
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},  # in front of an installed rltr
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout):
            printed, _ = await process.communicate()
        return process.returncode, printed.decode(errors="replace")
    except TimeoutError:
        return None, ""
    finally:
        _end(process)
        await process.communicate()  # until it has ended, and its pipe is closed


def _end(process: asyncio.subprocess.Process) -> None:
    """Kill pytest and, where process groups exist (not on Windows), all processes that its tests started."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def judge(status: int | None, printed: str, seconds: float) -> Result:
    """Derive the result of a mutant from pytest's exit status and output."""
    if status is None:
        return Result("timed out", "", seconds)
    if status == 0:
        return Result("SURVIVED", "", seconds)
    failed = [line.split(" - ")[0].split(maxsplit=1)[1] for line in printed.splitlines() if _names_a_test(line)]
    if status == 1 and failed:
        return Result("killed", failed[0], seconds)
    # If the file cannot be imported, the tests did not run, which proves nothing about them.
    return Result("broken", " / ".join(printed.split("\n")[-4:]).strip(" /"), seconds)


def _names_a_test(line: str) -> bool:
    return line.startswith(("FAILED ", "ERROR ")) and "::" in line


async def try_out(mutant: Mutant, copy: Path, timeout: float) -> Result:
    """Run a mutant's tests in a copy of the repository, and restore the copy afterwards."""
    file, begun = copy / mutant.file, time.monotonic()
    original = file.read_text(encoding="utf-8")
    try:
        file.write_text(mutated(original, mutant), encoding="utf-8")
        _forget_bytecode(file)
        return judge(*await run_tests(copy, mutant.tests, timeout), time.monotonic() - begun)
    finally:
        file.write_text(original, encoding="utf-8")
        _forget_bytecode(file)


def _forget_bytecode(file: Path) -> None:
    """Remove a file's compiled code, which Python would reuse: an edit within a second can keep time and size."""
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()


def unexpected(mutant: Mutant, result: Result) -> bool:
    """Whether a result is not as expected."""
    return result.verdict != ("SURVIVED" if mutant.reason else "killed")


async def try_all(mutants: Sequence[Mutant], root: Path, processes: int, timeout: float, check: bool) -> int:
    """Test mutants in parallel, with one copy of the repository per process, and print the result of each.

    Returns:
        The exit status: 0 if all results are as expected.
    """
    width = max(len(mutant.name) for mutant in mutants)
    waiting, strange = list(reversed(mutants)), []

    async def work(copy: Path) -> None:
        while waiting:
            mutant = waiting.pop()
            result = await try_out(mutant, copy, timeout)
            detail = mutant.reason if mutant.reason and result.verdict == "SURVIVED" else result.detail
            print(f"{result.verdict:9} {result.seconds:4.0f} s  {mutant.name:{width}}  {detail}", flush=True)
            if unexpected(mutant, result):
                strange.append(mutant)

    with tempfile.TemporaryDirectory(prefix="rltr-mutants-") as temporary:
        copies = [Path(temporary) / str(number) for number in range(min(processes, len(mutants)))]
        for copy in copies:
            copy_repository(root, copy)
        if check:
            tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
            status, printed = await run_tests(copies[0], tests, timeout * len(mutants))
            if status != 0:
                print(f"tests fail without any mutant, so their results are meaningless:\n{printed[-2000:]}")
                return 2
        async with asyncio.TaskGroup() as group:
            for copy in copies:
                group.create_task(work(copy))
    print(f"{len(mutants)} mutants, {len(mutants) - len(strange)} as they should be", end="")
    print(f"; look at: {', '.join(mutant.name for mutant in strange)}" if strange else "")
    return int(bool(strange))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT, table: Path = TABLE) -> int:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="mutants to try, * for any letters (default: all)")
    parser.add_argument("--list", action="store_true", help="only say what is wrong with each")
    parser.add_argument("--processes", type=int, default=1, help="how many to try at the same time (default: 1)")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for one (default: %(default)g)")
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests without a mutant first")
    options = parser.parse_args(arguments)
    try:
        mutants = chosen(read_table(table), options.names)
        for mutant in mutants:
            mutated((root / mutant.file).read_text(encoding="utf-8"), mutant)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.wrong}{f' No test notices: {mutant.reason}' if mutant.reason else ''}")
        return 0
    return asyncio.run(try_all(mutants, root, max(1, options.processes), options.timeout, not options.unchecked))


if __name__ == "__main__":
    sys.exit(main())
