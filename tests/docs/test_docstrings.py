"""Whatever is public is documented: names, their methods and fields. The reference shows nothing that is not."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import pytest

import rltr

PACKAGES = ["rltr", *(found.name for found in walk_packages(rltr.__path__, "rltr.") if found.ispkg)]


def public() -> Iterator[Any]:
    """Every class and function in the ``__all__`` of a package."""
    seen = set()
    for package in map(import_module, PACKAGES):
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            if (inspect.isclass(value) or inspect.isroutine(value)) and id(value) not in seen:
                seen.add(id(value))
                yield pytest.param(value, id=f"{package.__name__}.{name}")


def described_fields(described: type) -> set[str]:
    """Fields that a class's docstring lists, or that have a docstring of their own below them."""
    found = set(re.findall(r"^    (\w+):", inspect.getdoc(described) or "", re.MULTILINE))
    (node,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(described))).body
    assert isinstance(node, ast.ClassDef)
    for field, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found.add(ast.unparse(field.target))
    return found


@pytest.mark.parametrize("value", list(public()))
def test_public_names_are_described(value: Any) -> None:
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        own = {name for name, member in vars(value).items() if inspect.isroutine(member) and not name.startswith("_")}
        silent = [name for name in own - described_fields(value) if not inspect.getdoc(getattr(value, name))]
        assert not silent


@pytest.mark.parametrize("value", [case for case in public() if inspect.isclass(case.values[0])])
def test_public_fields_are_described(value: type) -> None:
    fields = {name for name in value.__dict__.get("__annotations__", ()) if not name.startswith("_")}
    if hasattr(value, "model_fields"):
        fields = {name for name, field in value.model_fields.items() if not field.description}
    assert fields <= described_fields(value)
