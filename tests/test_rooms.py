"""Rooms: which room may import which, and which packages `rltr.attach` loads."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    "system", "runtime", "policies", "cost", "selectors", "deploy", "recipe", "tasks", "embedded", "dense", "envs",
    "probe", "evaluate", "report", "check", "train", "jobs", "commands",
)  # fmt: skip
"""The rooms from the lowest: each imports only from those before it. Modules directly in rltr are below all."""
PRODUCTION = ("system", "runtime", "policies", "cost", "selectors", "deploy")
"""Rooms that are needed to run a policy."""
TRAINING_PACKAGES = {
    "datasets", "gymnasium", "matplotlib", "soundfile", "stable_baselines3", "tensorboard", "torch.utils.tensorboard",
}  # fmt: skip
"""Packages for learning, reading data and reporting."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "rltr").rglob("*.py"))
}


def room(module: str) -> str:
    """The room of a module; empty for modules directly in rltr."""
    inside = MODULES[module].relative_to(ROOT / "rltr").parts
    return inside[0] if len(inside) > 1 else ""


def imported(module: str) -> set[str]:
    """Everything that a module imports, also inside functions and for annotations.

    Names in strings do not count: ``rltr/callable_package.py`` passes calls of ``rltr.train`` and ``rltr.evaluate`` to
    a function in a higher room when it is called.
    """
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module} imports by a relative name"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & MODULES.keys() or {node.module}
    return found


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} - {""} == set(FLOORS)


def test_the_page_of_rooms_names_them_in_order() -> None:
    page = (ROOT / "docs" / "internals" / "rooms.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE)) == FLOORS


def test_few_modules_are_directly_in_rltr() -> None:
    assert len([module for module in MODULES if not room(module)]) <= 6


@pytest.mark.parametrize("floor", FLOORS)
def test_no_room_imports_from_a_higher_one(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :]
    upwards = [
        (module, name)
        for module in MODULES
        if room(module) == floor
        for name in sorted(imported(module) & MODULES.keys())
        if room(name) in above
    ]
    assert not upwards


@pytest.mark.parametrize("floor", PRODUCTION)
def test_rooms_for_production_import_no_training_packages(floor: str) -> None:
    needs = {
        (module, name)
        for module in MODULES
        if room(module) == floor
        for name in imported(module)
        if name in TRAINING_PACKAGES or name.partition(".")[0] in TRAINING_PACKAGES
    }
    assert not needs


def test_no_module_imports_itself_through_others() -> None:
    needs = {module: imported(module) & MODULES.keys() - {module} for module in MODULES}
    while leaves := [module for module, names in needs.items() if not names & needs.keys()]:
        for module in leaves:
            del needs[module]
    assert not needs, "these import each other in a circle"


def test_attaching_imports_no_training_packages() -> None:
    program = "import sys, rltr; rltr.attach, rltr.detach, rltr.load_policy; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert not loaded & TRAINING_PACKAGES and "scipy.stats" not in loaded
    rooms = {name.split(".")[1] for name in loaded if name.startswith("rltr.")} & set(FLOORS)
    assert rooms <= set(PRODUCTION)
