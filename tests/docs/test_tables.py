"""The tables of what works with what say what the code does, and name tests that exist."""

import re
from typing import Any

import pytest

from rltr import RltrError
from rltr.runtime.backbone import Backbone
from rltr.selectors import BASELINES, Selector
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks import KINDS
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first two lines."""
    section = PAGE.split(f"\n## {heading}\n")[1].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def yes(value: Any) -> str:
    return "yes" if value else "no"


def works(backbone: Backbone, selector: Selector, layers: list[int], removal: Any) -> bool:
    try:
        ReducedModel(backbone, selector, layers, removal)
    except RltrError:
        return False
    return removal in selector.modes


def test_data() -> None:
    rows = {cells[0].strip("`"): cells[2:] for cells in table("Data")}
    assert rows == {name: ["yes", yes(kind.arrays), yes(kind.unlabelled)] for name, kind in KINDS.items()}


def test_selectors(tiny_vit: Any) -> None:
    backbone = Backbone(tiny_vit)
    rows = {cells[0].strip("`"): cells[1:] for cells in table("Selectors")}
    del rows["the policy"]
    assert rows == {
        name: [
            yes(works(backbone, selector(0.5), [1], "merge")),
            yes(works(backbone, selector(0.5), [1], "drop")),
            yes(works(backbone, selector(0.5), [0], "merge")),
            "no",
        ]
        for name, selector in BASELINES.items()
    }


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_the_tests_it_names_exist(name: str) -> None:
    assert any(f"def {name}(" in file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
