"""Interruptions, signals, full disks and bugs: the message and the exit code of each."""

import errno
import signal
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from rltr.commands import group
from rltr.recipe import Recipe, save_recipe
from rltr.system.interruption import Stopped, listen
from tests.commands.conftest import failing, rltr


def test_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(recipe: Recipe, resume: bool, progress: bool) -> None:
        save_recipe(recipe, recipe.out / "recipe.yaml")
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(KeyboardInterrupt())))
    result = rltr("train", "--out", "here")
    assert result.exit_code == 130 and "--resume" not in result.stderr
    monkeypatch.setitem(sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=begin))
    result = rltr("train", "--out", "here")
    assert result.exit_code == 130
    assert result.stderr.endswith("go on from the last checkpoint with: rltr train --resume --out here\n")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signals_have_the_exit_codes_that_shells_expect(name: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(signal, name):
        pytest.skip("not on this system")
    number = getattr(signal, name)
    stop = KeyboardInterrupt() if name == "SIGINT" else Stopped(number)
    monkeypatch.setitem(sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(stop)))
    result = rltr("train", "--out", "here")
    assert result.exit_code == code and result.stderr == "rltr: interrupted before anything was written\n"


def test_only_signals_that_nobody_else_minds_are_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it under nohup has decided what a closed terminal means."""
    set_to: dict[int, Any] = {}
    handlers = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", handlers.__getitem__)
    monkeypatch.setattr(signal, "signal", set_to.__setitem__)
    listen()
    assert list(set_to) == [signal.SIGTERM]
    with pytest.raises(Stopped) as stopped:
        set_to[signal.SIGTERM](signal.SIGTERM, None)
    assert isinstance(stopped.value, KeyboardInterrupt) and stopped.value.number == signal.SIGTERM


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large", "run/recipe.yaml"),
    FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_one_line_whatever_it_is_called(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(error)))
    result = rltr("train")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr == f"rltr: error: {error.filename or 'the results cannot be written'}: {error.strerror}; " + (
        "check free space and write permission\n"
    )


def test_other_errors_of_the_system_are_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(OSError(errno.EBADF, "Bad file")))
    )
    assert isinstance(rltr("train").exception, OSError)


def test_a_full_disk_in_a_thread_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def told(error: Exception) -> str:
        group.tell_of_thread(threading.ExceptHookArgs((type(error), error, None, threading.current_thread())))
        return capsys.readouterr().err

    assert told(OSError(errno.ENOSPC, "No space left on device")).count("\n") == 1
    assert "Traceback" not in told(OSError(errno.ENOSPC, "No space left on device"))
    assert "ZeroDivisionError" in told(ZeroDivisionError("a bug"))


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(ValueError("a bug"))))
    assert isinstance(rltr("train").exception, ValueError)
