"""Check that an object is a transformers model; the error names the models inside of a wrapper."""

from torch import nn
from transformers import PreTrainedModel

from rltr.errors import RltrError


def refuse_wrapped(model: object) -> None:
    """Raise unless ``model`` is a model of transformers.

    Raises:
        RltrError: if it is not a ``PreTrainedModel``; the message names its parts that are.
    """
    if isinstance(model, PreTrainedModel):
        return
    if not isinstance(model, nn.Module):
        held = getattr(model, "model", None)  # pipelines, trainers
        hint = "; pass its .model" if isinstance(held, PreTrainedModel) else ""
        raise RltrError(
            f"rltr works on a model of transformers (PreTrainedModel), not on a {type(model).__name__}{hint}"
        )
    inside = [path for path, part in model.named_modules() if isinstance(part, PreTrainedModel)]
    outermost = [path for path in inside if not any(path.startswith(f"{above}.") for above in inside)]
    parts = " or ".join(f".{path}" for path in outermost)
    hint = f": pass its part {parts}. Calls of the wrapper then run the reduced part" if parts else ", and holds none"
    raise RltrError(f"{type(model).__name__} is not a model of transformers (PreTrainedModel) itself{hint}")
