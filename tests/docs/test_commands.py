"""Commands in the pages exist: those of ``rltr`` with their options and settings, targets of ``make``, modules."""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from rltr.commands.main import app
from rltr.recipe import load_recipe
from tests.docs.pages import ROOT, blocks, name_of, pages

GROUP = typer.main.get_group(app)
CONTEXT = GROUP.make_context("rltr", ["recipe"])


def lines() -> Iterator[tuple[str, list[str]]]:
    """Every command line in a page, with where it stands, split into words."""
    for page in pages():
        for text in blocks(page, "", "bash"):
            for line in text.replace("\\\n", " ").splitlines():
                if re.match(r"(rltr|make|python3? -m)\b", line):
                    yield name_of(page), shlex.split(line, comments=True)


def commands(*beginning: str) -> list[tuple[str, list[str]]]:
    """The command lines that begin so, without the beginning."""
    start = list(beginning)
    found = [(page, words[len(start) :]) for page, words in lines() if words[: len(start)] == start]
    assert found
    return found


@pytest.mark.parametrize(("page", "words"), commands("rltr"))
def test_commands_of_rltr_have_these_options(page: str, words: list[str]) -> None:
    name, *rest = words
    command = GROUP.get_command(CONTEXT, name)
    assert command is not None, f"there is no command {name!r}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in rest if word.startswith("-")} <= known
    settings = [value for option, value in zip(rest, rest[1:], strict=False) if option in {"--set", "-s"}]
    load_recipe(None, settings)  # refuses unknown fields and values


@pytest.mark.parametrize(("page", "words"), commands("make"))
def test_targets_of_make_exist(page: str, words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE)


@pytest.mark.parametrize(("page", "words"), commands("python", "-m"))
def test_modules_that_are_run_exist(page: str, words: list[str]) -> None:
    module = words[0]
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file() or find_spec(module) is not None


@pytest.mark.parametrize("page", [page for page in pages() if list(blocks(page, "yaml"))], ids=name_of)
def test_recipes_in_pages_are_recipes(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        load_recipe(str(file))
