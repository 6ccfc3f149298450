"""Modules of ``examples``, imported from the repository's root."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def root():
    """Make the repository's root importable for these tests only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


def example(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


@pytest.fixture
def no_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; assets are not found anywhere else."""
    monkeypatch.delenv("RLTR_ASSETS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example("assets"), "find_spec", lambda name: None)
    return tmp_path
