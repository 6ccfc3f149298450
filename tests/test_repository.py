"""The repository: links, imports, one version, the files of a wheel, and the workflows of its host."""

import ast
import os
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from setuptools import find_packages

from rltr.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINKS = ("envs", "policies", "train")


def sources() -> list[Path]:
    folders = ("rltr", "tests", "scripts", "benchmarks", "examples")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s<>=!~;\[]", line)[0].lower().replace("_", "-") for line in requirements}


def read(file: str | Path) -> Any:
    """A YAML file of the repository; ``on`` is a string, not a truth value as in YAML 1.1."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return yaml.safe_load(re.sub("^on:", '"on":', text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", LINKS)
def test_top_level_links_are_relative_and_lead_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink() and link.readlink() == Path("rltr") / name
    assert link.is_dir()


def imports(path: Path) -> set[str]:
    """The top-level names that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_no_file_imports_through_the_links() -> None:
    offenders = [path for path in sources() if imports(path) & set(LINKS)]
    assert not offenders, "import rltr.envs and so on; through a link it would be a second module"


def test_the_links_are_not_imported_in_tests() -> None:
    assert not set(LINKS) & set(sys.modules)


def test_all_versions_agree() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert read("CITATION.cff")["version"] == __version__
    try:
        installed = version("rltr")
    except PackageNotFoundError:
        pytest.skip("rltr runs from its source folder without being installed, so no metadata can disagree")
    assert installed == __version__


def test_every_folder_with_code_is_a_package() -> None:
    packages = set(find_packages(str(ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]))
    folders = {path.parent for path in (ROOT / "rltr").rglob("*.py")}
    assert packages == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_every_other_file_is_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["rltr"]
    packaged = {path for pattern in patterns for path in (ROOT / "rltr").glob(pattern)}
    others = {path for path in (ROOT / "rltr").rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert others <= packaged
    assert ROOT / "rltr" / "py.typed" in packaged


def test_constraints_pin_every_requirement() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned)
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = names([*PROJECT["project"]["dependencies"], *sum(extras.values(), [])]) - {"rltr"}
    assert wanted <= names(pinned)


def test_embedded_files_stay_small() -> None:
    files = [path for path in (ROOT / "rltr" / "embedded").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    assert all(path.stat().st_size < 5_000_000 for path in files if path.suffix == ".safetensors")


def test_scripts_and_make_targets_exist() -> None:
    for name in ("run", "nightly"):
        assert os.access(ROOT / ".ci" / name, os.X_OK)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "check"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize(
    ("name", "script", "on"),
    [("ci", ".ci/run", "pull_request"), ("nightly", ".ci/nightly", "schedule"), ("release", ".ci/run", "push")],
)
def test_workflows_call_the_scripts(name: str, script: str, on: str) -> None:
    """The host and a developer's machine run the same scripts, so their results agree."""
    workflow = read(f".github/workflows/{name}.yml")
    assert on in workflow["on"] and script in [step.get("run") for step in steps(workflow)]
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_actions_are_pinned_and_leave_no_credentials() -> None:
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        used = re.findall(r"uses: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert used and all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in used), path
        for step in steps(read(path)):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_only_publishing_gets_an_identity_token_and_only_after_the_build() -> None:
    jobs = read(".github/workflows/release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"} and jobs["publish"]["needs"] == "build"
    assert "permissions" not in jobs["build"] and not any("run" in step for step in jobs["publish"]["steps"])
    assert read(".github/workflows/release.yml")["on"] == {"push": {"tags": ["v*"]}}


def test_tested_pythons_are_the_supported_ones() -> None:
    claimed = set(re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"])))
    job = read(".github/workflows/ci.yml")["jobs"]["run"]
    assert set(job["strategy"]["matrix"]["python"]) == claimed
    assert PROJECT["project"]["requires-python"] == f">={min(claimed, key=lambda one: int(one.split('.')[1]))}"
    others = [step["with"] for name in ("nightly", "release") for step in steps(read(f".github/workflows/{name}.yml"))
              if "setup-python" in step.get("uses", "")]  # fmt: skip
    assert others and {step["python-version"] for step in others} <= claimed


def test_pre_commit_runs_the_same_ruff_as_the_checks() -> None:
    (local,) = read(".pre-commit-config.yaml")["repos"]
    ruff = {hook["additional_dependencies"][0] for hook in local["hooks"] if hook["entry"].startswith("ruff")}
    assert ruff <= set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()) and len(ruff) == 1
    formats = next(hook for hook in local["hooks"] if hook["id"] == "ruff-format")
    assert formats["types"] == ["python"], "examples in Markdown are laid out by hand"


def test_issue_forms_are_complete() -> None:
    forms = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]
    for form in map(read, forms):
        names = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert form["name"] and form["description"] and len(names) == len(set(names))
    assert {path.stem for path in forms} == {"bug", "family", "wrong-result"}
