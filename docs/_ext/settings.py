"""Pages of the reference that are not about Python: every setting of a recipe, and every command with its options."""

from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import typer
from api import write_if_new
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx

from rltr.commands.main import app as command_line
from rltr.recipe import Recipe
from rltr.recipe.file import SHIPPED

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write the pages of settings and of commands."""
    reference = Path(app.srcdir) / "reference"
    write_if_new(reference / "settings.md", settings_page())
    write_if_new(reference / "command-line.md", commands_page())


def settings_page() -> str:
    """Every field of a recipe: its default, what it may be, and what it means."""
    lines = [
        "# Settings",
        "",
        "A *recipe* holds every setting of a training and its evaluation. Change one with "
        "`--set learner.rollouts=10000`, or write a YAML file and pass it as `--recipe my.yaml`. "
        "`rltr recipe > my.yaml` prints this page as such a file.",
        "",
        *group_lines(Recipe()),
        *shipped_lines(),
    ]
    return "\n".join(lines)


def group_lines(group: BaseModel, prefix: str = "") -> list[str]:
    """A section for each group of fields, and one for the fields of the whole recipe, which are in no group."""
    lines, alone = [], []
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            lines += [f"## `{name}`: {lower_first(str(field.description))}", "", *group_lines(value, f"{name}.")]
        else:
            alone += field_lines(f"{prefix}{name}", field, value)
    return [*lines, "## In no group", "", *alone] if lines else alone


def field_lines(name: str, field: FieldInfo, default: Any) -> list[str]:
    """One field, with an anchor of its name."""
    choices = choices_of(field)
    text = str(field.description)
    if text.split(maxsplit=1)[0] not in choices:
        text = text[:1].upper() + text[1:]
    facts = [f"Default: `{yaml_text(default)}`"]
    if len(choices) > 1:
        facts += [f"One of {', '.join(f'`{choice}`' for choice in choices)}"]
    if limits := limits_of(field):
        facts += [limits[:1].upper() + limits[1:]]
    if NoneType in get_args(field.annotation):
        facts += ["May be `null`"]
    return [f"(setting.{name})=", f"### `{name}`", "", f"{text}.", "", f"{'. '.join(facts)}.", ""]


def choices_of(field: FieldInfo) -> list[str]:
    """The words that a field may be."""
    parts = (field.annotation, *get_args(field.annotation))
    return [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]


def limits_of(field: FieldInfo) -> str:
    """The bounds of a number in words; empty if it has none."""
    limits = [(limit, bound) for limit in field.metadata for bound in BOUNDS if hasattr(limit, bound)]
    return " and ".join(f"{BOUNDS[bound]} {getattr(limit, bound):,}" for limit, bound in limits)


def yaml_text(value: Any) -> str:
    """A default as it is written in YAML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    return "null" if value is None else str(value)


def shipped_lines() -> list[str]:
    """The recipes that rltr brings along."""
    lines = ["## Recipes that come with rltr", ""]
    for path in sorted(SHIPPED.glob("*.yaml")):
        lines += [f"### `{path.stem}`", "", "```yaml", path.read_text(encoding="utf-8").strip(), "```", ""]
    return lines


def commands_page() -> str:
    """Every command's ``--help``."""
    group = typer.main.get_group(command_line)
    context = group.make_context("rltr", [], resilient_parsing=True)
    lines = [
        "# Command line",
        "",
        "Exit codes: 0, it worked; 1, `rltr check` found something that does not hold; 2, an error that you can fix, "
        "and one line says how; 130, 143 and 129 after Ctrl-C, SIGTERM and SIGHUP. With `RLTR_DEBUG=1` an error shows "
        "its traceback.",
        "",
    ]
    for name, command in group.commands.items():
        with command.make_context(name, [], parent=context, resilient_parsing=True) as inner:
            lines += [f"## `rltr {name}`", "", "```text", command.get_help(inner), "```", ""]
    return "\n".join(lines)


def lower_first(text: str) -> str:
    """A heading's text behind a colon."""
    return text[:1].lower() + text[1:]
