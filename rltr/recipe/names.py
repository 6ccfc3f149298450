"""Look up recipe fields by their own names, such as ``rollouts`` for ``learner.rollouts``."""

from collections.abc import Mapping
from typing import Any

from rltr.errors import RltrError
from rltr.recipe.explain import field_keys
from rltr.recipe.fields import Recipe


def by_own_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace field names by dotted keys; unknown names are kept, and refused later by validation.

    Args:
        settings: values by field name, if only one group has such a field; by dotted key; or whole groups by name.

    Raises:
        RltrError: if several groups have a field of that name, or one field is given twice.
    """
    known = list(field_keys(Recipe))
    found: dict[str, Any] = {}
    for name, value in settings.items():
        keys = [key for key in known if key.rpartition(".")[2] == name]
        if name in Recipe.model_fields or not keys:
            keys = [name]
        if len(keys) > 1:
            written = " or ".join(f"{key.partition('.')[0]}={{{name!r}: ...}}" for key in keys)
            raise RltrError(f"several groups have a setting {name!r}; say which: {written}")
        if keys[0] in found:
            raise RltrError(f"the setting {keys[0]} is given twice")
        found[keys[0]] = value
    return found
