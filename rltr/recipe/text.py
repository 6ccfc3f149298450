"""A YAML 1.2 loader for recipes, without the surprising conversions of YAML 1.1.

PyYAML reads YAML 1.1, where ``off`` is false, ``1:30`` is 90, ``010`` is 8 and ``1e-3`` is text. Here its loader gets
YAML 1.2's rules for plain values (the core schema, section 10.3 of the specification). It refuses features that recipes
do not need and that hostile files use: aliases, tags, duplicate keys, and deep nesting.
"""

import re
from typing import Any

import yaml

LONGEST = 200_000
"""Limit of characters of a recipe; one with every field and its description has 15,000."""
DEEPEST = 10
"""Limit of nested groups and lists; a recipe has three levels."""
DIGITS = 40
"""Limit of digits of a whole number; Python itself raises an unclear error for thousands of digits."""
CORE = (
    ("null", r"|~|null|Null|NULL", ["", "~", "n", "N"]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    (
        "timestamp",
        r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt\s].*)?",
        list("0123456789"),
    ),  # from YAML 1.1; matched only to be refused
)
"""The tag, the pattern and the first characters of every plain value that is not text."""


def read_yaml(text: str) -> Any:
    """Parse YAML into dictionaries, lists, strings, numbers, booleans and None.

    Raises:
        yaml.YAMLError: if it is not valid YAML, or uses a feature that is refused; with the position, if there is one.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"it has {len(text):,} characters, but a recipe may have at most {LONGEST:,}")
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """Reads plain values by the core schema; refuses everything else, with its position."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refused(
                event, "anchors and aliases (&x and *x) are not supported; write values out, or quote a text"
            )
        if getattr(event, "tag", None) is not None:
            raise _refused(event, "tags (such as !!int) are not supported; leave it out")
        if self._depth == DEEPEST:
            raise _refused(event, f"more than {DEEPEST} levels of groups and lists")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(key_node, f"expected a name, not {key!r}; quote it if it is one")
            if key in made:
                raise _refused(key_node, f"duplicate key {key!r}; remove one of them")
            made[key] = self.construct_object(value_node, deep=deep)
        return made


def _refused(where: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, problem, where.start_mark)


def _whole(loader: _Loader, node: Any) -> int:
    text = node.value
    if len(text) > DIGITS:
        raise _refused(node, f"a whole number of {len(text)} digits; quote it if it is a text")
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


def _real(loader: _Loader, node: Any) -> float:
    text = node.value.lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _group(loader: _Loader, node: Any) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


def _no_date(loader: _Loader, node: Any) -> Any:
    raise _refused(node, f"{node.value} is a date to YAML, which no field takes; quote it if it is a text")


for _tag, _pattern, _first in CORE:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _real)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _no_date)
_Loader.add_constructor("tag:yaml.org,2002:map", _group)
