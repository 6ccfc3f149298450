"""Reading a recipe from YAML and the command line, and writing one down."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from rltr.errors import RltrError
from rltr.recipe.explain import explain
from rltr.recipe.fields import Recipe
from rltr.recipe.text import DEEPEST, LONGEST, read_yaml
from rltr.system.files import atomic_write
from rltr.system.former_names import recipe_in_present_names

SHIPPED = Path(__file__).parent
"""The folder of the recipes that come with rltr; each can be named without path and ending."""


def load_recipe(
    source: Path | str | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, object] | None = None,
) -> Recipe:
    """Build a recipe from the defaults, then ``source``, then ``overrides``, then ``values``; the later wins.

    Args:
        source: a YAML file, the name of a recipe that comes with rltr, or a mapping that is one already.
        overrides: ``"group.field=value"`` each, the value written as in YAML.
        values: dotted key to value, taken as it is.

    Raises:
        RltrError: for a file that cannot be read, an unknown key, or a value that does not fit; one line each.
    """
    tree: dict[str, Any] = {}
    name = "recipe"
    if isinstance(source, Mapping):
        _refuse_odd(source, name)
        _merge(tree, recipe_in_present_names(source, name))
    elif source is not None:
        path = find_recipe(source)
        name = str(path)
        _merge(tree, recipe_in_present_names(_read(path), repr(name)))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RltrError(f"--set {override!r} is not of the form group.field=value, e.g. learner.rollouts=10000")
        _put(tree, key.strip(), _parse(text, f"--set {key.strip()}"))
    for key, value in (values or {}).items():
        _refuse_odd(value, key)
        _put(tree, key, value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RltrError(explain(error, name)) from None


def find_recipe(source: Path | str) -> Path:
    """The file that ``source`` means: the name of a recipe that comes with rltr, or else a path.

    Raises:
        RltrError: if there is neither; the message lists the names.
    """
    path = Path(source)
    names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    # The names come first: a file or folder that happens to be called demo must not change what `rltr demo` runs.
    if str(source) in names:
        return SHIPPED / f"{source}.yaml"
    if path.is_file():
        return path
    if path.is_dir():
        raise RltrError(f"recipe {str(path)!r} is a folder; name the YAML file in it")
    raise RltrError(f"recipe {str(path)!r}: no such file, nor one of rltr's own recipes ({', '.join(names)})")


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write ``recipe`` as YAML with the fields' descriptions as comments; `load_recipe` reads it back unchanged."""
    with atomic_write(path) as temporary:
        temporary.write_text(recipe_text(recipe), encoding="utf-8")


def recipe_text(recipe: Recipe) -> str:
    """``recipe`` as YAML, every field preceded by a comment that says what it means."""
    return "\n".join(_lines(recipe, recipe.model_dump(mode="json"), 0)).lstrip() + "\n"


def _lines(group: BaseModel, values: Mapping[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in type(group).model_fields.items():
        inner = getattr(group, name)
        if depth == 0:
            yield ""
        yield f"{indent}# {field.description}{_choices(field.annotation)}"
        if isinstance(inner, BaseModel):
            yield f"{name}:"
            yield from _lines(inner, values[name], depth + 1)
        else:
            yield f"{indent}{name}: {_value_text(values[name])}"


def _value_text(value: object) -> str:
    # Text is always quoted: no word then turns into a truth value or a number, and every character can be written.
    text = isinstance(value, str) or (isinstance(value, list) and any(isinstance(part, str) for part in value))
    inside = yaml.safe_dump([value], default_flow_style=True, width=10**9, default_style='"' if text else None)
    return inside.strip()[1:-1]


def _choices(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f" ({', '.join(get_args(annotation))})"
    return ""


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        elif isinstance(value, Mapping):
            tree[key] = {}
            _merge(tree[key], value)
        else:
            tree[key] = value


def _refuse_odd(value: object, name: str) -> None:
    """Refuse names that are no text, and what is nested without end; files are read by the same rules."""
    level = [value]
    for _ in range(DEEPEST):
        groups = [outer for outer in level if isinstance(outer, Mapping)]
        if wrong := [key for group in groups for key in group if not isinstance(key, str)]:
            raise RltrError(f"{name} holds a field called {wrong[0]!r}: the names of fields are texts")
        level = [inner for outer in level if isinstance(outer, list | tuple) for inner in outer]
        level += [inner for group in groups for inner in group.values()]
        if not level:
            return
    raise RltrError(f"{name} has more than {DEEPEST} levels of groups and lists; a recipe has three")


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    _merge(tree, recipe_in_present_names(value, key))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors begin a file with a mark of its encoding
            text = file.read(LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise RltrError(f"recipe {str(path)!r} cannot be read as text: {error}") from None
    content = _parse(text, f"recipe {str(path)!r}")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RltrError(f"recipe {str(path)!r} must hold groups with fields, not a {type(content).__name__}")
    return content


def _parse(text: str, what: str) -> Any:
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise RltrError(f"{what} is not valid YAML: {where}{problem}") from None
