"""The repository's shape: links, imports, one version, and everything a wheel needs inside it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
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


def test_nobody_imports_through_the_links() -> None:
    offenders = [path for path in sources() if imports(path) & set(LINKS)]
    assert not offenders, "import rltr.envs and so on; through a link it would be a second module"


def test_the_links_are_no_modules_in_the_tests() -> None:
    assert not set(LINKS) & set(sys.modules)


def test_one_version() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
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


def test_ci_and_makefile_are_there() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "check"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
