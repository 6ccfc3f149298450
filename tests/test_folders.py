"""Folders for results: which ones commands refuse, and which files they remove."""

import os
from pathlib import Path

import pytest

from rltr.errors import RltrError
from rltr.system.folders import (
    CHECKPOINT,
    DEMO_FILE,
    EVALUATION_FILE,
    FORMER_REPORT_FILES,
    LATENCY_FILE,
    LOGS,
    POLICY_FILE,
    POLICY_FOLDER,
    RECIPE_FILE,
    REPORT_FILES,
    check_out,
    clear_out,
)

OURS = [
    *(RECIPE_FILE, DEMO_FILE, EVALUATION_FILE, LATENCY_FILE, *REPORT_FILES, *FORMER_REPORT_FILES),
    *(f"{CHECKPOINT}/state.json", f"{CHECKPOINT}/state.safetensors"),
    *(f"{LOGS}/0/progress.csv", f"{LOGS}/12/events.out.tfevents.1.host.2.0"),
    *(f"{POLICY_FOLDER}/{name}" for name in (POLICY_FILE, "config.json", "README.md")),
]
OTHERS = [
    *("notes.md", "report.pdf", ".recipe.yaml.swp", f".{CHECKPOINT}.bak"),
    *(f"{CHECKPOINT}/why.txt", f"{LOGS}/0/notes.md", f"{LOGS}/ppo_1/progress.csv", f"{POLICY_FOLDER}/model.onnx"),
]


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_files_of_rltr_are_removed_and_all_others_kept(tmp_path: Path) -> None:
    fill(tmp_path, OURS)
    clear_out(tmp_path)
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path, OURS + OTHERS)
    clear_out(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(OTHERS)
    clear_out(tmp_path / "was never there")


def test_the_target_of_a_link_is_not_cleared(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", [POLICY_FILE])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / POLICY_FOLDER).symlink_to(tmp_path / "elsewhere")
    clear_out(tmp_path / "run")
    assert (tmp_path / "elsewhere" / POLICY_FILE).exists() and not list((tmp_path / "run").iterdir())


def test_an_unusable_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for out, said in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "below", "is a file"),
        (tmp_path / "nowhere", "is a broken link"),
        (tmp_path / "nowhere" / "below", "is a broken link"),
        (tmp_path / "circle", "cannot write to"),
        (tmp_path / ("x" * 300), "file name too long"),
        (Path(f"{tmp_path}/a\0b"), "null"),
    ):
        with pytest.raises(RltrError, match=f"{said}.*name another folder with --out") as refused:
            check_out(out)
        assert "\n" not in str(refused.value)
    check_out(tmp_path / "new" / "and" / "below")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_without_access_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    for out in (tmp_path / "closed", tmp_path / "closed" / "below"):
        with pytest.raises(RltrError, match="permission denied"):
            check_out(out)


def test_a_folder_that_disappears_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path) -> list[str]:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(os, "listdir", gone)
    with pytest.raises(RltrError, match="no such file or directory; name another folder"):
        check_out(tmp_path)
