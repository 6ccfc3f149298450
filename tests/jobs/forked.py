"""Runs the command line in forked children that meet with hardship, in a program of its own: no test is forked.

Reads scenarios as JSON from stdin and prints what became of each as JSON. A scenario has

* ``command``: the arguments of ``rltr``, and ``folder``: the one it runs in;
* ``kill_at``: SIGKILL before so many-th change to a file or folder below ``watched``;
* ``limit``: the most bytes a file may have, as if the disk were full;
* ``signal``: sent once ``when`` is there.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
PATIENCE = 120
"""Seconds after which a child is taken for one that never ends."""


def watch(scenario: dict[str, Any], seen: Path) -> None:
    """Count changes below a folder, and end without a word at the one that was asked for."""
    watched, last, count = os.path.abspath(scenario["watched"]), scenario.get("kill_at"), 0

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if not os.path.abspath(os.fspath(arguments[0])).startswith(watched):
            return
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        if last is None:
            os.write(counter, b".")

    counter = os.open(seen, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    sys.addaudithook(look)


def child(scenario: dict[str, Any], errors: int, seen: Path) -> None:
    os.chdir(scenario["folder"])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(errors, 2)  # a pipe: what is said must not meet the limit of files
    # Whoever runs the tests in the background of a shell has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["rltr", *scenario["command"]]
    if "limit" in scenario:
        resource.setrlimit(resource.RLIMIT_FSIZE, (scenario["limit"], scenario["limit"]))
    if "watched" in scenario:
        watch(scenario, seen)
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(scenario: dict[str, Any], said: Path) -> dict[str, Any]:
    seen = said.with_suffix(".seen")
    began = time.monotonic()
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        child(scenario, writing, seen)
    os.close(writing)
    waiting = "signal" in scenario
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if waiting and Path(scenario["folder"], scenario["when"]).exists():
            os.kill(process, getattr(signal, scenario["signal"]))
            waiting = False
        if time.monotonic() - began > PATIENCE:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
    with open(reading) as errors:  # a few lines, which a pipe holds until then
        stderr = errors.read()
    return {
        "code": os.waitstatus_to_exitcode(status),
        "stderr": stderr,
        "changes": seen.stat().st_size if seen.exists() else 0,
    }


if __name__ == "__main__":
    import torch

    import rltr.jobs.training  # noqa: F401 - children shall not import it each
    from rltr.commands import main as cli

    torch.set_num_threads(1)
    given = json.load(sys.stdin)
    results = [run(scenario, Path(given["notes"], str(i))) for i, scenario in enumerate(given["scenarios"])]
    print(json.dumps(results))
