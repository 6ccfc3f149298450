"""Tasks: inputs, what is true of them, and what counts as right. One file per kind; ``KINDS`` lists them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForZeroShotImageClassification,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto as auto

from rltr.errors import RltrError
from rltr.tasks import zero_shot
from rltr.tasks.examples import Examples, Index, Task, TensorExamples
from rltr.tasks.heads import measure_spread
from rltr.tasks.images import load_images
from rltr.tasks.options import DataOptions
from rltr.tasks.scores import SCORES, score
from rltr.tasks.sounds import load_sounds
from rltr.tasks.text import load_texts
from rltr.tasks.tokens import load_tokens
from rltr.tasks.unlabelled import load_unlabelled

__all__ = [
    "KINDS",
    "SCORES",
    "DataOptions",
    "Examples",
    "Index",
    "Kind",
    "Task",
    "TensorExamples",
    "load_task",
    "score",
]


class Kind(NamedTuple):
    """One kind of task.

    Args:
        inputs: names of the main inputs (``model.main_input_name``) of models that it is for.
        auto: transformers' class that loads such models.
        classes: the names of the model classes with such a head, by model type, from transformers' own tables.
        load: reads the data for a model; called with the model, the data's path, the model's folder or hub id (for its
            processor or tokenizer), and the options.
        asked: whether it is only taken when it is asked for, because every model is fit for it.
        part: what of a loaded model is reduced; None for the whole.
    """

    inputs: tuple[str, ...]
    auto: Any
    classes: Mapping[str, str | Sequence[str]]
    load: Callable[[PreTrainedModel, Path, str, DataOptions], Task]
    asked: bool = False
    part: Callable[[PreTrainedModel], PreTrainedModel] | None = None

    def suits(self, model_type: str, architecture: str) -> bool:
        """Whether a model of this type and class has such a head."""
        # One model type can have several classes (DeiT has two), then the table holds them all.
        names = self.classes.get(model_type, ())
        return architecture in ({names} if isinstance(names, str) else set(names))


KINDS = {
    "image": Kind(
        ("pixel_values",),
        AutoModelForImageClassification,
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        load_images,
    ),
    "text": Kind(
        ("input_ids",),
        AutoModelForSequenceClassification,
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        load_texts,
    ),
    "tokens": Kind(
        ("input_ids",),
        AutoModelForTokenClassification,
        auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        load_tokens,
    ),
    "audio": Kind(
        ("input_values", "input_features"),
        AutoModelForAudioClassification,
        auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
        load_sounds,
    ),
    "zero-shot": Kind(
        ("pixel_values",),
        AutoModelForZeroShotImageClassification,
        zero_shot.CLASSES,
        zero_shot.load_zero_shot,
        part=zero_shot.vision_tower,
    ),
    "embedding": Kind(("input_ids", "pixel_values"), AutoModel, auto.MODEL_MAPPING_NAMES, load_unlabelled, asked=True),
}
"""Every kind by its name. To add one: write its file, with a subclass of ``Examples`` and a loader; list it here."""


def load_task(
    model: PreTrainedModel,
    data: str | Path,
    source: str | None = None,
    kind: str | None = None,
    options: DataOptions | None = None,
) -> Task:
    """Read a data set for a model, with the model's own processor or tokenizer.

    Args:
        model: a model with the head that the task is for, or without one for embeddings.
        data: for images a folder with one subfolder per class; for texts a .csv, .tsv or .jsonl; either may come in
            splits named train, validation (or val) and test. Each kind's loader says what else it reads.
        source: the model's folder or hub id; None takes where ``model`` was loaded from.
        kind: a name in ``KINDS``; None takes what fits the model's head.
        options: fractions, seed, columns; None takes the defaults.

    Raises:
        RltrError: if anything about data, model or processor does not fit; the message says what, and what to do.
    """
    if kind is not None and kind not in KINDS:
        raise RltrError(f"there is no task kind {kind!r}; choose one of {', '.join(KINDS)}")
    fitting = [name for name, known in KINDS.items() if model.main_input_name in known.inputs]
    if not fitting or (kind is not None and kind not in fitting):
        raise RltrError(
            f"{type(model).__name__} takes {model.main_input_name}, which is for "
            f"{' or '.join(fitting) or 'no'} tasks, not {kind or 'one of ' + ', '.join(KINDS)}"
        )
    if kind is None:
        parents = [parent.__name__ for parent in type(model).__mro__]
        heads = [name for name in fitting if any(KINDS[name].suits(model.config.model_type, own) for own in parents)]
        kind = next((name for name in heads if not KINDS[name].asked), None)
        if kind is None:
            raise RltrError(
                f"{type(model).__name__} has no head that says what its task is; name the kind of task, "
                f"{' or '.join(heads or fitting)}"
            )
    source = source or model.name_or_path
    if not source:
        raise RltrError("this model was not loaded from a folder or the hub; give its folder as source")
    data = Path(data).expanduser()
    if not data.exists():
        raise RltrError(f"there is no data at {data}; check the path")
    task = KINDS[kind].load(model, data, source, options or DataOptions())
    goal = measure_spread(model, task.train)
    for split in (task.train, task.validation, task.test):
        split.goal = goal
    return task
