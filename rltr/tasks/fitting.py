"""Whether a model can take the inputs of a task at all: tried before anything is measured, trained or written."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.examples import Examples


def check_fit(model: PreTrainedModel, examples: Examples) -> None:
    """Run one input through the model.

    Raises:
        RltrError: if the model's weights are not finite, it cannot take the input, or its answer is not
            there or not finite.
    """
    for name, weights in model.named_parameters():
        if weights.is_floating_point() and not weights.isfinite().all():
            raise RltrError(
                f"the model's weights {name} hold NaN or infinity: its training diverged, or its file is damaged; "
                "load a sound checkpoint"
            )
    # Dropout aside, a batch norm would learn from the input in training mode.
    was_training, inputs = model.training, examples.batch([0])
    made = {name: _where(value, model) for name, value in inputs.items()}
    model.eval()
    try:
        with torch.no_grad():
            output = model(**made)
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise RltrError(
            f"{type(model).__name__} cannot take these inputs ({shapes}): {reason}; likely cause: another model's "
            "processor or tokenizer. Save the one that the model was trained with in its folder"
        ) from error
    finally:
        model.train(was_training)
    try:
        answers = examples.goal.read(output, made)
    except KeyError as error:
        raise RltrError(
            f"{type(model).__name__} gives no {error}, which says here what is right; load the model with the head "
            "that it was trained with"
        ) from error
    if not answers.isfinite().all():
        bad = [name for name, value in inputs.items() if value.is_floating_point() and not value.isfinite().all()]
        cause = f"{', '.join(bad)} holds NaN or infinity" if bad else "an overflow in half precision"
        raise RltrError(f"the model's answer to {examples.names[0]!r} is NaN or infinite; likely cause: {cause}")


def _where(value: Tensor, model: PreTrainedModel) -> Tensor:
    return value.to(model.device, model.dtype if value.is_floating_point() else None)
