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


def test_an_interruption_prints_the_command_to_resume(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_signals_give_the_usual_exit_codes(name: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(signal, name):
        pytest.skip("not on this system")
    number = getattr(signal, name)
    stop = KeyboardInterrupt() if name == "SIGINT" else Stopped(number)
    monkeypatch.setitem(sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(stop)))
    result = rltr("train", "--out", "here")
    assert result.exit_code == code and result.stderr == "rltr: interrupted before anything was written\n"


def test_ignored_signals_stay_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """``nohup`` ignores SIGHUP, and rltr must not change that."""
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
def test_every_error_of_a_full_disk_gives_one_line(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(error)))
    result = rltr("train")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr == f"rltr: error: {error.filename or 'the results cannot be written'}: {error.strerror}; " + (
        "check free space and write permission\n"
    )


def test_other_system_errors_are_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(OSError(errno.EBADF, "Bad file")))
    )
    assert isinstance(rltr("train").exception, OSError)


def test_a_full_disk_in_a_thread_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(error: Exception) -> str:
        group.tell_of_thread(threading.ExceptHookArgs((type(error), error, None, threading.current_thread())))
        return capsys.readouterr().err

    assert printed(OSError(errno.ENOSPC, "No space left on device")).count("\n") == 1
    assert "Traceback" not in printed(OSError(errno.ENOSPC, "No space left on device"))
    assert "ZeroDivisionError" in printed(ZeroDivisionError("a bug"))


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(ValueError("a bug"))))
    assert isinstance(rltr("train").exception, ValueError)
