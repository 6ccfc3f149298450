"""The command line: a user's mistake is one line and exit code 2, found before anything is written."""

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import T5Config, T5EncoderModel
from typer.testing import CliRunner, Result

from rltr.commands import group
from rltr.commands import main as cli
from rltr.errors import RltrError
from rltr.recipe import Recipe, load_recipe, save_recipe
from rltr.system.folders import DEMO_FILE, EVALUATION_FILE
from rltr.system.interruption import Stopped, listen
from rltr.version import __version__


def rltr(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="rltr")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, so that whatever a command writes is seen."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stand-ins for the jobs that only write down how they were called."""
    calls: list[tuple[Any, ...]] = []

    def stand_in(name: str) -> Any:
        def run(*arguments: Any, progress: bool = False) -> SimpleNamespace:
            calls.append((name, *arguments))
            return SimpleNamespace(folder=Path("made"))

        return run

    jobs = {
        "demo": "run_demo",
        "training": "run_train",
        "evaluation": "run_evaluate",
        "export": "run_export",
        "check": "run_check",
    }
    for module, name in jobs.items():
        monkeypatch.setitem(sys.modules, f"rltr.jobs.{module}", SimpleNamespace(**{name: stand_in(name)}))
    return calls


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    save_recipe(load_recipe(None, ["learner.seed=5", "learner.epochs=2"], {"out": folder}), folder / "recipe.yaml")
    return folder


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    recipe = load_recipe(None, ["learner.seed=6"]).model_dump(mode="json")
    (folder / "config.json").write_text(json.dumps({"recipe": recipe}))
    return folder


def test_version() -> None:
    result = rltr("--version")
    assert (result.exit_code, result.stdout) == (0, f"rltr {__version__}\n")


@pytest.mark.parametrize("command", ["", "demo", "train", "evaluate", "export", "check", "recipe"])
def test_help_shows_an_example(command: str) -> None:
    result = rltr(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"rltr {command or 'demo'}" in result.stdout.partition("Options:")[0].partition("\n")[2]


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from rltr.commands.main import main\ntry: main()\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_recipe_prints_what_train_reads(elsewhere: Path, jobs: list[tuple[Any, ...]]) -> None:
    printed = rltr("recipe", "quick", "--set", "learner.seed=9").stdout
    (elsewhere / "mine.yaml").write_text(printed, encoding="utf-8")
    assert rltr("train", "--recipe", "mine.yaml").exit_code == 0
    assert jobs == [("run_train", load_recipe("quick", ["learner.seed=9"]), False)]


MISTAKES = [
    (["train", "--set", "learner.rollout=3"], "unknown key 'learner.rollout'; did you mean 'learner.rollouts'"),
    (["train", "--recipe", "nothing.yaml"], "no such file"),
    (["train", "--data", "nothing"], "there is no data at 'nothing'"),
    (["train", "--model", "my-vit"], "there is no data for model 'my-vit'"),
    (["train", "--device", "cuda:63"], "valid here: auto, cpu"),
    (["train", "--device", "quantum"], "not a device's name"),
    (["train", "--seed", "-1"], "learner.seed is -1"),
    (["train", "--threads", "0"], "threads is 0"),
    (["train", "--set", "evaluation.methods=[best]"], "'best'"),
    (["train", "--resume"], "nothing to resume"),
    (["demo", "--quick", "--device", "quantum"], "not a device's name"),
    (["evaluate", "--policy", "nothing"], "is not a policy's folder: there is no such folder"),
    (["check", "."], "is not a policy's folder"),
    (["export", "--run", "nothing", "--out", "made"], "is not a run's folder"),
    (["recipe", "nothing"], "demo, quick"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistakes_get_one_line_and_leave_nothing(
    arguments: list[str], said: str, elsewhere: Path, jobs: list[tuple[Any, ...]]
) -> None:
    result = rltr(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("rltr: error: ") and result.stderr.count("\n") == 1
    assert said in result.stderr
    assert jobs == [] and list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("arguments", [["nothing"], ["train", "--nothing"], ["train", "--seed", "x"], ["evaluate"]])
def test_wrong_usage(arguments: list[str]) -> None:
    result = rltr(*arguments)
    assert result.exit_code == 2
    assert "Usage: rltr" in result.stderr and "Traceback" not in result.stderr


def test_a_mistake_in_a_real_process(elsewhere: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rltr", "train", "--data", "nothing"],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    said = f"there is no data at 'nothing' (looked for {str(elsewhere / 'nothing')!r})"
    assert done.stderr == f"rltr: error: {said}; name an existing folder or file with --data\n"


def test_results_never_replace_something_else(elsewhere: Path, run_folder: Path, jobs: list[tuple[Any, ...]]) -> None:
    (elsewhere / "file").write_text("mine")
    for command in (["demo"], ["train"], ["train", "--resume"]):
        assert "is a file" in rltr(*command, "--out", "file").stderr
        assert "is a file" in rltr(*command, "--out", "file/below").stderr
        assert "is not there" in rltr(*command, "--out", elsewhere).stderr
    assert "continue it with --resume" in rltr("train", "--out", run_folder).stderr
    assert "policy.safetensors is not there" in rltr("export", "--run", run_folder, "--out", elsewhere).stderr
    assert jobs == [] and [path.name for path in elsewhere.iterdir()] == ["file"]


def test_demo_may_be_repeated(run_folder: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert "holds a training run" in rltr("demo", "--quick", "--out", run_folder).stderr and jobs == []
    (run_folder / DEMO_FILE).touch()
    assert rltr("demo", "--quick", "--out", run_folder, "--seed", 3).exit_code == 0
    assert jobs == [("run_demo", load_recipe("quick", ["learner.seed=3"], {"out": run_folder}), True)]


def test_resume_goes_on_with_the_runs_own_recipe(run_folder: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert (
        rltr("train", "--resume", "--out", run_folder, "--threads", 1, "--set", "learner.rollouts=99000").exit_code == 0
    )
    (_, recipe, resume) = jobs[0]
    assert isinstance(recipe, Recipe) and resume is True
    assert (recipe.learner.seed, recipe.learner.epochs, recipe.learner.rollouts, recipe.threads) == (5, 2, 99000, 1)
    assert "leave out learner.seed" in rltr("train", "--resume", "--out", run_folder, "--seed", 1).stderr


def test_evaluate_starts_from_the_policys_recipe(policy: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert rltr("evaluate", "--policy", policy, "--out", "made", "--set", "evaluation.examples=10").exit_code == 0
    (_, folder, recipe) = jobs[0]
    assert (folder, recipe.learner.seed, recipe.evaluation.examples, recipe.out) == (policy, 6, 10, Path("made"))


def test_evaluate_never_writes_over_a_run(policy: Path, run_folder: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert "holds a training run" in rltr("evaluate", "--policy", policy, "--out", run_folder).stderr and jobs == []
    (policy.parent / "measured").mkdir()
    (policy.parent / "measured" / EVALUATION_FILE).touch()
    assert rltr("evaluate", "--policy", policy, "--out", policy.parent / "measured").exit_code == 0


def test_evaluate_says_when_another_version_wrote_the_recipe(policy: Path, jobs: list[tuple[Any, ...]]) -> None:
    (policy / "config.json").write_text(json.dumps({"recipe": {"policy": {"prior": 4}}}))
    result = rltr("evaluate", "--policy", policy)
    assert result.exit_code == 2 and "another version wrote it" in result.stderr and jobs == []
    assert rltr("evaluate", "--policy", policy, "--recipe", "quick").exit_code == 0


def test_a_tilde_is_ones_home(
    policy: Path, run_folder: Path, jobs: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = policy.parent
    monkeypatch.setenv("HOME", str(home))
    assert rltr("export", "--run=~/run", "--out=~/made").exit_code == 0
    assert rltr("check", "~/policy").exit_code == 0
    assert rltr("evaluate", "--policy=~/policy", "--out=~/seen").exit_code == 0
    assert rltr("train", "--resume", "--out=~/run").exit_code == 0
    assert jobs[0] == ("run_export", home / "run", home / "made") and jobs[1][1] == jobs[2][1] == policy
    assert (jobs[2][2].out, jobs[3][1].out) == (home / "seen", run_folder)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_policy(policy: Path, content: str) -> None:
    (policy / "config.json").write_text(content)
    result = rltr("check", policy)
    assert result.exit_code == 2 and "export the policy again" in result.stderr


def replace_by(file: Path, make: Callable[[Path], None]) -> None:
    file.unlink()
    make(file)


SPOILED: dict[str, Callable[[Path], object]] = {
    "a key twice": lambda file: file.write_text('{"a": 1, "a": 2}'),
    "no number": lambda file: file.write_text('{"a": NaN}'),
    "no text": lambda file: file.write_bytes(b"\xff\xfe\x00"),
    "very deep": lambda file: file.write_text("[" * 100_000),
    "a device": lambda file: replace_by(file, lambda place: place.symlink_to("/dev/zero")),
    "a pipe": lambda file: replace_by(file, os.mkfifo),
    "a folder": lambda file: replace_by(file, Path.mkdir),
    "huge": lambda file: os.truncate(file, 2**40),
}


@pytest.mark.parametrize("case", SPOILED)
@pytest.mark.parametrize("command", [["check"], ["evaluate", "--policy"]])
def test_a_hostile_policy_is_one_line(case: str, command: list[str], policy: Path, jobs: list[tuple[Any, ...]]) -> None:
    SPOILED[case](policy / "config.json")
    result = rltr(*command, policy)
    assert result.exit_code == 2 and jobs == []
    assert result.stderr.startswith("rltr: error: ") and result.stderr.count("\n") == 1


def test_a_runs_folder_is_not_its_policys(run_folder: Path, policy: Path) -> None:
    shutil.copytree(policy, run_folder / "policy")
    for command in (["check"], ["evaluate", "--policy"]):
        result = rltr(*command, run_folder)
        assert result.exit_code == 2 and f"its policy is {str(run_folder / 'policy')!r}" in result.stderr


def test_what_comes_next_can_be_pasted(
    run_folder: Path, jobs: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = "my cat's photos"
    said = [rltr("export", "--run", run_folder, "--out", out).stdout]
    monkeypatch.setitem(
        sys.modules,
        "rltr.jobs.training",
        SimpleNamespace(run_train=lambda recipe, _, progress: SimpleNamespace(folder=recipe.out)),
    )
    said.append(rltr("train", "--out", out).stdout)
    for line in said:
        assert out in shlex.split(line.partition("next: ")[2])


def test_export_and_check(run_folder: Path, policy: Path, jobs: list[tuple[Any, ...]]) -> None:
    assert rltr("export", "--run", run_folder, "--out", "made").exit_code == 0
    assert rltr("check", policy, "--model", "my-vit", "--data", "photos", "--threads", 2).exit_code == 0
    changes = {"model.source": "my-vit", "data.source": "photos", "threads": 2}
    assert jobs == [("run_export", run_folder, Path("made")), ("run_check", policy, changes)]


def test_a_failed_check_is_exit_code_1(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rltr.jobs.check", SimpleNamespace(run_check=lambda *_: False))
    result = rltr("check", policy)
    assert result.exit_code == 1
    assert result.stderr.startswith("rltr: check failed: ") and result.stderr.count("\n") == 1


def failing(error: BaseException) -> Any:
    def run(*_: Any, **__: Any) -> None:
        raise error

    return run


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


def test_what_was_moved_is_asked_for(run_folder: Path, tmp_path: Path, jobs: list[tuple[Any, ...]]) -> None:
    """A run knows where its model and data were; where they are now, its user does."""
    gone = str(tmp_path / "gone")
    for key, option in (("model.source", "--model"), ("data.source", "--data")):
        values = {"out": run_folder, "model.source": "embedded", "data.source": "embedded", key: gone}
        save_recipe(load_recipe(values=values), run_folder / "recipe.yaml")
        result = rltr("train", "--resume", "--out", run_folder)
        assert result.exit_code == 2 and f"is no longer at {gone!r}" in result.stderr and option in result.stderr
    assert jobs == []
    (tmp_path / "here").mkdir()
    assert rltr("train", "--resume", "--out", run_folder, "--data", tmp_path / "here").exit_code == 0
    assert jobs[0][1].data.source == str(tmp_path / "here")
    assert "leave out --recipe" in rltr("train", "--resume", "--out", run_folder, "--recipe", "quick").stderr


def test_messages_of_several_lines_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(RltrError("first\n  second")))
    )
    assert rltr("train").stderr == "rltr: error: first second\n"
    monkeypatch.setenv("RLTR_DEBUG", "1")
    assert isinstance(rltr("train").exception, RltrError)


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rltr.jobs.training", SimpleNamespace(run_train=failing(ValueError("a bug"))))
    assert isinstance(rltr("train").exception, ValueError)


def test_checking_a_model_prints_what_was_found(tmp_path: Path, tiny_bert, monkeypatch: pytest.MonkeyPatch) -> None:
    # A narrow terminal breaks the table's cells into lines.
    monkeypatch.setenv("COLUMNS", "100")
    tiny_bert.save_pretrained(tmp_path / "bert")
    done = rltr("check", tmp_path / "bert")
    assert done.exit_code == 0
    for word in ("BertLayer", "exact", "of native", "proven by rltr's own tests"):
        assert word in done.output


def test_checking_a_model_that_cannot_work_says_why(tmp_path: Path) -> None:
    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=20)
    T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    done = rltr("check", tmp_path / "t5")
    assert done.exit_code == 2 and "bias for every pair of positions" in done.output
