"""Load the frozen model and the data of a recipe, for all jobs."""

from dataclasses import fields
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from rltr.embedded import load_task as load_embedded_task
from rltr.errors import RltrError
from rltr.recipe import EMBEDDED, Recipe
from rltr.recipe.inputs import DataGroup, refuse_in_memory
from rltr.runtime.backbone import Backbone
from rltr.runtime.kernels import Backend
from rltr.system.device import pick_device
from rltr.tasks import DataOptions, Task, load_task
from rltr.tasks.goals.chosen import with_goal
from rltr.tasks.goals.numbering import by_name
from rltr.tasks.goals.plausibility import say_implausible
from rltr.tasks.inputs import forget_labels
from rltr.tasks.models import load_model


def prepare(recipe: Recipe, model: PreTrainedModel | None = None, data: Any = None) -> tuple[Backbone, Task]:
    """Load the frozen model and the data of a recipe.

    Args:
        recipe: the sources and options.
        model: a model in memory, instead of the recipe's.
        data: a loaded :class:`rltr.tasks.Task`, or anything else that :func:`rltr.load_task` reads, instead of the
            recipe's data.

    Raises:
        RltrError: if one of them cannot be read, or they do not fit each other.
    """
    backbone = prepare_model(recipe, model)
    return backbone, prepare_data(recipe, backbone.model, data)


def prepare_model(recipe: Recipe, model: PreTrainedModel | None = None) -> Backbone:
    """Load the frozen model of a recipe, or use the given one; also sets the recipe's number of torch threads.

    Raises:
        RltrError: if the model cannot be loaded, or the given one is in training mode or not on the recipe's device.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    if model is None:
        refuse_in_memory("model", recipe.model.source)
        model = load_model(recipe.model.source, _kind(recipe), pick_device(recipe.device))
    else:
        _refuse_unready(model, recipe.device)
    attention = cast(Backend, recipe.reduction.attention)  # validated by the recipe
    return Backbone(model, recipe.model.tower, attention=attention)


def prepare_data(recipe: Recipe, model: PreTrainedModel, given: Any = None) -> Task:
    """Load the data of a recipe, or the given data, as a task for ``model``.

    Raises:
        RltrError: if they cannot be read or do not fit the model.
    """
    data = recipe.data
    if isinstance(given, Task):
        task = given
    elif given is not None:
        task = load_task(model, given, kind=_kind(recipe), options=data_options(data))
    elif data.source == EMBEDDED:
        task = load_embedded_task()
        _refuse_unlike(model, recipe.model.source, task)
        if recipe.model.source != EMBEDDED:  # the embedded model needs no check
            say_implausible(model, task.train, "training")
        if data.labels == "none":
            for split in (task.train, task.validation, task.test):
                forget_labels(split)
    else:
        refuse_in_memory("data", data.source)
        task = load_task(model, data.source, kind=_kind(recipe), options=data_options(data))
    if isinstance(given, Task) or data.source == EMBEDDED:
        task = with_goal(task, model, data.goal)  # for all other data, load_task has done this
    # Limits draw examples with a fixed seed, so that the learner's seed does not change the splits.
    return task.at_most(data.train_limit, data.validation_limit, data.test_limit)


def _refuse_unready(model: PreTrainedModel, device: str) -> None:
    """Raise if a model in memory is in training mode, or is not on the recipe's device."""
    if model.training:
        raise RltrError(
            f"this {type(model).__name__} is in training mode, in which dropout makes its outputs random: call "
            "model.eval() first"
        )
    wanted = pick_device(device)
    if device != "auto" and (wanted.type, wanted.index or 0) != (model.device.type, model.device.index or 0):
        raise RltrError(
            f"the model is on {model.device}, but device={device!r}: call model.to({device!r}), or leave device out"
        )


def data_options(data: DataGroup) -> DataOptions:
    """The ``DataOptions`` of a recipe: the fields that both have in common, and ``split_seed`` as ``seed``."""
    shared = [field.name for field in fields(DataOptions) if field.name != "seed"]
    return DataOptions(seed=data.split_seed, **{name: getattr(data, name) for name in shared})


def _kind(recipe: Recipe) -> str | None:
    return None if recipe.data.kind == "auto" else recipe.data.kind


def _refuse_unlike(model: PreTrainedModel, source: str, task: Task) -> None:
    """Raise if the embedded data do not fit a model, because they bypass the model's own image processor."""
    config, data = model.config, task.train
    given = tuple(data.batch([0])["pixel_values"].shape[1:])
    taken = image_shape(model)
    if taken == given and config.num_labels == len(data.classes):
        known = by_name(data.classes, config)
        if known is not None and [known.number[name] for name in data.classes] != list(range(len(data.classes))):
            raise RltrError(
                f"model {source!r} has the classes of the embedded data in another order ({', '.join(known.classes)}) "
                f"than the data ({', '.join(data.classes)}); fine-tune it with the data's order, or name data for it "
                "with --data (data.source)"
            )
        return
    takes = f"images of {'×'.join(map(str, taken))}" if taken else model.main_input_name
    raise RltrError(
        f"model {source!r} takes {takes} and has {config.num_labels} classes, but the embedded data are images of "
        f"{'×'.join(map(str, given))} in {len(data.classes)} classes, made for the embedded model; name data for this "
        f"model with --data (data.source)"
    )


def image_shape(model: PreTrainedModel) -> tuple[int, int, int] | None:
    """Channels, height and width of a model's input images; None for models of other inputs."""
    if model.main_input_name != "pixel_values":
        return None
    size = model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return model.config.num_channels, height, width
