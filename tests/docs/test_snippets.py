"""Python in the pages runs: every block of a page, one after the other, in a folder with what the pages speak of."""

from pathlib import Path

import pytest
import torch

from tests.docs.pages import blocks, name_of, pages

TRAINS = {"README.md", "docs/guide/python.md"}
"""Pages whose code trains and measures; what it says is checked, but less is done."""
WITH_CODE = [page for page in pages() if list(blocks(page, "python"))]


def test_pages_have_code() -> None:
    assert {"docs/start.md", "docs/extend/selector.md", *TRAINS} <= {name_of(page) for page in WITH_CODE}


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_code_in_pages_runs(page: Path, images: torch.Tensor, small_jobs: None, in_readers_folder: None) -> None:
    known = {"images": images}
    for number, text in enumerate(blocks(page, "python"), 1):
        exec(compile(text, f"{name_of(page)}, block {number}", "exec"), known)
