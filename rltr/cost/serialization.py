"""Cost models as plain data: JSON is written, and what is read is checked against the dataclass's annotations."""

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rltr.cost.model import CostModel
from rltr.errors import RltrError

Model = TypeVar("Model")


def dump(cost: CostModel) -> dict[str, Any]:
    """A cost model that is a dataclass, as JSON-able data under its name."""
    return {"name": cost.name, **TypeAdapter(type(cost)).dump_python(cost, mode="json")}


def restore(kind: type[Model], data: dict[str, Any]) -> Model:
    """What :func:`dump` was given.

    Raises:
        RltrError: if ``data`` does not describe a ``kind``; the message names each wrong field.
    """
    fields = {key: value for key, value in data.items() if key != "name"}
    try:
        # As JSON, in which types are strict and lists are what tuples are written as: "1" and true are no numbers.
        return TypeAdapter(kind).validate_json(json.dumps(fields, allow_nan=False), strict=True)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise RltrError(
            f"this is not a stored {kind.__name__} ({wrong}): damaged, or written by another version of rltr? "
            "Make it anew"
        ) from error
    except ValueError as error:
        raise RltrError(
            f"this is not a stored {kind.__name__}: it has numbers that are not finite. Make it anew"
        ) from error
