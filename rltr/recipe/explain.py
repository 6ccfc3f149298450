"""One-line explanations of validation errors of a recipe: the field, its value, and the valid values."""

import difflib
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from rltr.recipe.fields import Recipe, inner_group


def explain(error: ValidationError, name: str) -> str:
    """Describe the first error in one line.

    Args:
        error: the error from validating a `Recipe`.
        name: the beginning of the line, such as the recipe's file.
    """
    first = error.errors()[0]
    group: type[BaseModel] = Recipe
    path: list[str] = []
    if first["type"] == "extra_forbidden":
        path = [str(part) for part in first["loc"]]
        for parent in path[:-1]:
            group = inner_group(group, parent) or group
        return f"{name}: unknown key {'.'.join(path)!r}; {_suggestion(path, list(group.model_fields))}"
    for part in first["loc"]:
        # After the field's own name, `loc` has indices and the branches of a union.
        if not isinstance(part, str) or part not in group.model_fields:
            break
        path.append(part)
        inner = inner_group(group, part)
        if inner is None:
            field = group.model_fields[part]
            here = [found for found in error.errors() if list(found["loc"][: len(path)]) == path]
            wanted = " or ".join(dict.fromkeys(_wanted(found["msg"]) for found in here)).replace(" or must be ", " or ")
            index = "".join(f"[{found}]" for found in first["loc"][len(path) :] if isinstance(found, int))
            given = "missing" if first["type"] == "missing" else _shown(first["input"])
            quoted = ""
            if isinstance(first["input"], int | float | None) and any(e["type"] == "string_type" for e in here):
                quoted = " (in quotes, if a text was meant)"
            return f"{name}: {'.'.join(path)}{index} is {given}: {wanted}{quoted}. It means: {field.description}"
        group = inner
    if first["type"] == "model_type":
        names = ", ".join(group.model_fields)
        return f"{name}: {'.'.join(path)} is {_shown(first['input'])}: must be a group of fields, which are {names}"
    return ": ".join(part for part in (name, ".".join(path), _wanted(first["msg"])) if part)


def _shown(value: object) -> str:
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # an integer with thousands of digits, or a list that contains itself
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wanted(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ").removeprefix("List ")
    for old, new in (("should be", "must be"), ("should have", "must have"), (" after validation, not 0", "")):
        message = message.replace(old, new)
    message = message[:1].lower() + message[1:]
    return message if len(message) <= 400 else f"{message[:150]} ... {message[-240:]}"


def field_keys(group: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted key of every field of a group, including those of nested groups."""
    for name in group.model_fields:
        inner = inner_group(group, name)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from field_keys(inner, f"{prefix}{name}.")


def _suggestion(path: list[str], siblings: list[str]) -> str:
    *parents, bad = path
    keys = {key.rpartition(".")[2]: key for key in field_keys(Recipe)}
    keys |= {name: ".".join([*parents, name]) for name in siblings}
    near = difflib.get_close_matches(bad, list(keys), 1)
    hint = f"did you mean {keys[near[0]]!r}? " if near else ""
    where = f"in {'.'.join(parents)!r}" if parents else "at the top"
    return f"{hint}valid {where}: {', '.join(siblings)}"
