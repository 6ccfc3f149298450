"""From a recipe to what every job works with: the frozen model and its data."""

from dataclasses import fields
from typing import cast

import torch
from transformers import PreTrainedModel

from rltr.embedded import load_task as load_embedded_task
from rltr.errors import RltrError
from rltr.recipe import EMBEDDED, Recipe
from rltr.recipe.inputs import DataGroup
from rltr.runtime.backbone import Backbone
from rltr.runtime.kernels import Backend
from rltr.system.device import pick_device
from rltr.tasks import DataOptions, Task, load_task
from rltr.tasks.goals.numbering import by_name
from rltr.tasks.goals.plausibility import say_implausible
from rltr.tasks.models import load_model
from rltr.tasks.read.unlabelled import forget_labels


def prepare(recipe: Recipe) -> tuple[Backbone, Task]:
    """The frozen model and the data a recipe names.

    Raises:
        RltrError: if one cannot be read, or they do not fit each other.
    """
    backbone = prepare_model(recipe)
    return backbone, prepare_data(recipe, backbone.model)


def prepare_model(recipe: Recipe) -> Backbone:
    """The frozen model a recipe names, on its device; from now on torch uses as many threads as the recipe says."""
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    model = load_model(recipe.model.source, _kind(recipe), pick_device(recipe.device))
    attention = cast(Backend, recipe.reduction.attention)  # the recipe has checked that
    return Backbone(model, recipe.model.tower, attention=attention)


def prepare_data(recipe: Recipe, model: PreTrainedModel) -> Task:
    """The data a recipe names, as ``model`` takes them."""
    data = recipe.data
    if data.source == EMBEDDED:
        task = load_embedded_task()
        _refuse_unlike(model, recipe.model.source, task)
        if recipe.model.source != EMBEDDED:  # which is known to be good
            say_implausible(model, task.train, "training")
        if data.labels == "none":
            for split in (task.train, task.validation, task.test):
                forget_labels(split)
    else:
        task = load_task(model, data.source, kind=_kind(recipe), options=data_options(data))
    # Which examples a limit leaves is decided by a seed of its own, too: no learner's seed moves a split.
    return task.at_most(data.train_limit, data.validation_limit, data.test_limit)


def data_options(data: DataGroup) -> DataOptions:
    """What a recipe says about how its data are read: the fields that both have, and ``split_seed`` for ``seed``."""
    shared = [field.name for field in fields(DataOptions) if field.name != "seed"]
    return DataOptions(seed=data.split_seed, **{name: getattr(data, name) for name in shared})


def _kind(recipe: Recipe) -> str | None:
    return None if recipe.data.kind == "auto" else recipe.data.kind


def _refuse_unlike(model: PreTrainedModel, source: str, task: Task) -> None:
    """Refuse the embedded data for a model they are not for: no processor of the model's own stands in between."""
    config, data = model.config, task.train
    given = tuple(data.batch([0])["pixel_values"].shape[1:])
    taken = image_shape(model)
    if taken == given and config.num_labels == len(data.classes):
        known = by_name(data.classes, config)
        if known is not None and [known.number[name] for name in data.classes] != list(range(len(data.classes))):
            raise RltrError(
                f"model {source!r} knows the classes of the embedded data in another order "
                f"({', '.join(known.classes)}) than they have ({', '.join(data.classes)}); train it with that, or name "
                "data for it with --data (data.source)"
            )
        return
    takes = f"images of {'×'.join(map(str, taken))}" if taken else model.main_input_name
    raise RltrError(
        f"model {source!r} takes {takes} and knows {config.num_labels} classes, but the embedded data are images of "
        f"{'×'.join(map(str, given))} in {len(data.classes)} classes, made for the embedded model; name data for this "
        f"model with --data (data.source)"
    )


def image_shape(model: PreTrainedModel) -> tuple[int, int, int] | None:
    """Channels, height and width of a model's images; None for a model that takes something else."""
    if model.main_input_name != "pixel_values":
        return None
    size = model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return model.config.num_channels, height, width
