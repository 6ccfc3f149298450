"""Links between the repository's pages lead somewhere, as they are shown where the repository is hosted.

The site's own build checks what is written for the site alone: names of the package (``#rltr.attach``) and settings.
"""

import re
from pathlib import Path

import pytest

from tests.docs.pages import BLOCK, GENERATED, ROOT, name_of, pages

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\]|`[^`]*`)*\]\(([^()\s]+)\)", re.DOTALL)
SITE_ONLY = re.compile(r"#[a-z]+[._][\w.]+")


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def links(page: Path) -> list[str]:
    """Where a page leads, outside of code, but for the web."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", [page for page in pages() if links(page)], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if GENERATED in found.parents or SITE_ONLY.fullmatch(target):
            continue
        assert found.exists(), f"{name_of(page)} leads to {target}"
        assert not anchor or anchor in anchors(found), f"{name_of(page)} leads to {target}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_no_line_is_lost(page: Path) -> None:
    """The site takes a line that begins with a percent sign for a comment."""
    assert not re.search(r"^\s*%", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)


def test_every_page_of_the_site_can_be_reached() -> None:
    """Sphinx warns of pages that are in no table of contents; this finds folders that it is not told of."""
    folders = {page.parent for page in (ROOT / "docs").rglob("*.md")}
    known = {page.parent for page in pages()}
    assert {folder for folder in folders if GENERATED not in (folder, *folder.parents)} <= known
