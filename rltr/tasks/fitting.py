"""Check that a model accepts the inputs of a task, before anything is measured, trained or written."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.system.device import move_inputs
from rltr.tasks.examples.base import Examples


def check_fit(model: PreTrainedModel, examples: Examples) -> None:
    """Run one batch of two inputs through the model, and check its outputs.

    The batch has two inputs because some heads accept a single input but no batch.

    Raises:
        RltrError: if the model's weights are not finite, its forward pass fails, or the outputs that the goal reads
            are missing or not finite.
    """
    for name, weights in model.named_parameters():
        if weights.is_floating_point() and not weights.isfinite().all():
            raise RltrError(
                f"the model's weights {name} hold NaN or infinity: its training diverged, or its file is damaged; "
                "load an intact checkpoint"
            )
    # In training mode a batch norm would update its statistics from these inputs.
    was_training, inputs = model.training, examples.batch(range(min(2, len(examples))))
    made = move_inputs(inputs, model.device, model.dtype)
    model.eval()
    try:
        with torch.no_grad():
            output = model(**made)
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise RltrError(
            f"{type(model).__name__} cannot take these inputs ({shapes}): {reason}; {_cure(model, inputs, error)}"
        ) from error
    finally:
        model.train(was_training)
    try:
        answers = examples.goal.read(output, made)
    except KeyError as error:
        raise RltrError(
            f"the output of {type(model).__name__} has no field {error}, which this task scores; load the model with "
            "the head that it was trained with"
        ) from error
    finite = answers.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        bad = [name for name, value in inputs.items() if value.is_floating_point() and not value.isfinite().all()]
        cause = f"{', '.join(bad)} holds NaN or infinity" if bad else "an overflow in half precision"
        name = examples.names[finite.index(False)]
        raise RltrError(f"the model's output for {name!r} is NaN or infinite; likely cause: {cause}")


def _cure(model: PreTrainedModel, inputs: Mapping[str, Tensor], error: Exception) -> str:
    """The likely cause of the model's error, and what to do."""
    # A head that pools the last token needs the padding token to find it, and raises a ValueError without one.
    if isinstance(error, ValueError) and "input_ids" in inputs and model.config.get_text_config().pad_token_id is None:
        return (
            "likely cause: the model's config has no padding token, so its head cannot find the end of a text; set "
            "model.config.pad_token_id to the tokenizer's pad_token_id, and save the model"
        )
    return (
        "likely cause: the processor or tokenizer belongs to another model. Save the one that the model was trained "
        "with in its folder"
    )
