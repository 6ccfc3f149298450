"""How docstrings are read, and where the names in them lead."""

import builtins
import inspect
from typing import Any, TypeVar

from api import GOOGLE, find, homes
from docutils.nodes import Element, TextElement
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import GoogleDocstring


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", read_google)
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("missing-reference", elsewhere)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def read_google(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Turn a Google docstring into reStructuredText.

    The extension napoleon is not loaded, because it takes what an attribute's docstring says before a colon for a type.
    """
    kind: Any = "method" if what in {"attribute", "data", "property"} else what
    lines[:] = types_beside_names(GoogleDocstring(list(lines), GOOGLE, app, kind, name, value, options).lines())


def types_beside_names(lines: list[str]) -> list[str]:
    """Put the type of an attribute into its heading, where napoleon gives it a paragraph of its own."""
    found: list[str] = []
    heading = 0
    for line in lines:
        if line.startswith(".. attribute::"):
            heading = len(found) + 1
        if heading and line.startswith("   :type: "):
            found.insert(heading, line)
        else:
            found.append(line)
    return found


def skip_foreign(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out functions that a class or module only holds: they are described elsewhere, or not rltr's."""
    if not inspect.isroutine(value):
        return None
    foreign = not (getattr(value, "__module__", None) or "").startswith("rltr")
    # A function in a class that is no method of it is the default of a field.
    is_value = what == "class" and "." not in getattr(value, "__qualname__", ".")
    return True if foreign or is_value else None


def elsewhere(app: Sphinx, environment: BuildEnvironment, node: Element, text: TextElement) -> Element | None:
    """What a name leads to that has no description under itself: its home, or nowhere if it is not rltr's.

    Sphinx warns of whatever is left: a name of rltr that is nowhere described, or nowhere at all.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    for context in contexts(node):
        found = find(context + target)
        if found is None:
            continue
        module = getattr(found, "__module__", None) or context + target
        if not module.startswith("rltr") or isinstance(found, TypeVar):
            return text
        domain = environment.domains.python_domain
        home = home_of(found) or context + target
        return domain.resolve_xref(environment, node["refdoc"], app.builder, "obj", home, node, text)
    # Annotations may say what cannot be imported: the axes of an array, names that only type checkers import.
    in_annotation = "refwarn" not in node
    return text if hasattr(builtins, target) or (in_annotation and not target.startswith("rltr.")) else None


def contexts(node: Element) -> list[str]:
    """What a name in a docstring may be relative to: nothing, its class, its module, its class's own module."""
    module, owner = node.get("py:module"), node.get("py:class")
    found = ["", f"{module}.{owner}.", f"{module}."]
    defined = getattr(find(f"{module}.{owner}"), "__module__", None)
    return [*found, f"{defined}."] if defined else found


def home_of(value: Any) -> str | None:
    """Under which name a class, a function or a method is described; None for other values."""
    if id(value) in homes():
        return homes()[id(value)]
    module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not path:
        return None
    owner, _, name = path.rpartition(".")
    return f"{home_of(find(f'{module}.{owner}'))}.{name}" if owner else f"{module}.{path}"
