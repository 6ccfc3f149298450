"""The Markdown of the repository: its pages, and the blocks of code in them."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "docs" / "reference"
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """Every Markdown page of the repository, but for the reference, which the site's build makes."""
    folders = ("", "docs", "docs/guide", "docs/extend", "docs/internals", "examples", "benchmarks", "rltr/embedded")
    found = [page for folder in folders for page in sorted((ROOT / folder).glob("*.md"))]
    assert len(found) > 20
    return found


def name_of(page: Path) -> str:
    """A page's path from the root, as a test's name."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The fenced blocks of a page that are in one of some languages; an empty one stands for a fence without a name."""
    for _, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text
