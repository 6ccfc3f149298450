"""Serialise cost models that are dataclasses: to JSON types, and back with checks against the annotations."""

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rltr.cost.model import CostModel
from rltr.errors import RltrError

Model = TypeVar("Model")


def dump(cost: CostModel) -> dict[str, Any]:
    """Fields of a cost model as JSON types, and its name."""
    return {"name": cost.name, **TypeAdapter(type(cost)).dump_python(cost, mode="json")}


def restore(kind: type[Model], data: dict[str, Any]) -> Model:
    """Rebuild a cost model from the output of :func:`dump`.

    Raises:
        RltrError: if ``data`` does not describe a ``kind``; the message names each wrong field.
    """
    fields = {key: value for key, value in data.items() if key != "name"}
    try:
        # Validated as JSON, because then strict types reject "1" and true as numbers but accept lists for tuples.
        return TypeAdapter(kind).validate_json(json.dumps(fields, allow_nan=False), strict=True)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise RltrError(
            f"this is not a stored {kind.__name__} ({wrong}): likely it is damaged, or another version of rltr wrote "
            "it. Measure or count it again"
        ) from error
    except ValueError as error:
        raise RltrError(
            f"this is not a stored {kind.__name__}: it has numbers that are not finite. Measure or count it again"
        ) from error
