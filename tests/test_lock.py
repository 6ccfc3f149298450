"""Only one process writes to a folder at a time, and its lock leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from rltr.errors import RltrError
from rltr.system.folders import LOCK_FILE, check_out
from rltr.system.lock import locked

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom rltr.system.lock import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


def test_a_locked_folder_is_refused(tmp_path: Path) -> None:
    """Also within one process: two threads of a notebook would mix their runs as two commands would."""
    out = tmp_path / "run"
    with locked(out):
        for _ in range(2):
            with pytest.raises(RltrError, match="in use: another rltr process writes to it.*--out"), locked(out):
                pytest.fail("held twice")
        with locked(tmp_path / "other"):
            pass
        check_out(out)  # the lock file does not count as a result
    with locked(out):
        pass


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "recipe.yaml").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.yaml"]
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "other"):
        raise ZeroDivisionError
    assert not (tmp_path / "other").exists()


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RltrError, match="is a file"), locked(tmp_path / "file"):
        pytest.fail("a file was held")


def test_a_lock_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None and owner.stdout.readline() == "held\n"
        with pytest.raises(RltrError, match="in use"), locked(out):
            pytest.fail("held twice")
        owner.kill()
    assert (out / LOCK_FILE).exists()  # a killed owner cannot remove it, which does no harm
    check_out(out)
    with locked(out):
        pass
    assert not (out / LOCK_FILE).exists()


def test_a_replaced_folder_stays_locked(tmp_path: Path) -> None:
    """An export replaces its folder while it holds the lock."""
    out = tmp_path / "policy"
    with locked(out):
        out.rename(tmp_path / "aside")
        out.mkdir()
        (out / "config.json").touch()
        (tmp_path / "aside" / LOCK_FILE).rename(out / LOCK_FILE)
        with pytest.raises(RltrError, match="in use"), locked(out):
            pytest.fail("held twice")
    assert [path.name for path in out.iterdir()] == ["config.json"]


def test_a_lock_file_that_its_owner_removed_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first owner removes the file and the next one creates another: a lock on the first excludes no process."""
    fcntl = pytest.importorskip("fcntl")
    out, flock = tmp_path / "run", fcntl.flock
    out.mkdir()
    first, second = locked(out), locked(out)
    first.__enter__()

    def late(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.__exit__(None, None, None)
        second.__enter__()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(RltrError, match="in use"), locked(out):
        pytest.fail("held twice")
    second.__exit__(None, None, None)
    assert list(out.iterdir()) == []
