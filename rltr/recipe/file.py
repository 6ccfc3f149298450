"""Read a recipe from YAML and the command line, and write one to a file."""

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
"""The folder of the recipes that come with rltr; each can be named without its path and suffix."""


def load_recipe(
    source: Path | str | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, object] | None = None,
) -> Recipe:
    """Build a recipe from the defaults, ``source``, ``overrides`` and ``values``; later ones have precedence.

    Args:
        source: a YAML file, the name of a recipe that comes with rltr, or a mapping.
        overrides: texts ``"group.field=value"``, with the value in YAML.
        values: values by dotted key, which are not parsed.

    Raises:
        RltrError: if the file cannot be read, a key is unknown, or a value is not valid.
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
    """The file of a recipe: ``source`` is the name of one that comes with rltr, or a path.

    Raises:
        RltrError: if it is neither; the message lists the names.
    """
    path = Path(source)
    names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    # Names have precedence over paths: a file or folder called demo must not change what `rltr demo` runs.
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
    """``recipe`` as YAML, with each field's description as a comment above it."""
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
    # Texts are always quoted, so that none is read back as a boolean or a number, and all characters are allowed.
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
    """Raise for keys that are not texts, and for too deep nesting; the same rules apply to files."""
    level = [value]
    for _ in range(DEEPEST):
        groups = [outer for outer in level if isinstance(outer, Mapping)]
        if wrong := [key for group in groups for key in group if not isinstance(key, str)]:
            raise RltrError(f"{name} has a field called {wrong[0]!r}: the names of fields must be texts")
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
        with path.open(encoding="utf-8-sig") as file:  # some editors write a byte order mark
            text = file.read(LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise RltrError(f"recipe {str(path)!r} cannot be read as text: {error}") from None
    content = _parse(text, f"recipe {str(path)!r}")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RltrError(f"recipe {str(path)!r} must be a mapping of groups of fields, not a {type(content).__name__}")
    return content


def _parse(text: str, what: str) -> Any:
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise RltrError(f"{what} is not valid YAML: {where}{problem}") from None
