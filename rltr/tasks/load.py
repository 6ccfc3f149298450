"""Load a task: read the data that the user names, as the model needs them. ``KINDS`` lists the kinds of tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from rltr.recipe import is_hub_name
from rltr.recipe.data_options import OR_WITHOUT, DataOptions
from rltr.system.files import at_home, from_here
from rltr.tasks import zero_shot
from rltr.tasks.examples.base import Examples, Task
from rltr.tasks.examples.words import load_words
from rltr.tasks.fitting import check_fit
from rltr.tasks.goals.chosen import with_goal
from rltr.tasks.goals.heads import measure_spread
from rltr.tasks.goals.plausibility import say_implausible
from rltr.tasks.inputs import FORMS, load_labelled, load_unlabelled
from rltr.tasks.read import image_files, sound_files
from rltr.tasks.read.arrays import holds_arrays, load_arrays, open_arrays
from rltr.tasks.read.folders import open_folder
from rltr.tasks.read.frames import from_frames
from rltr.tasks.read.hub import holds_tables, is_datasets_object, open_files, open_hub, tables_of
from rltr.tasks.read.records import SUFFIXES, open_records
from rltr.tasks.read.splits import assemble
from rltr.tasks.read.tables import Table


class Kind(NamedTuple):
    """One kind of task.

    Args:
        inputs: the main inputs (``model.main_input_name``) of the models that fit this kind.
        auto: the auto class of transformers that loads such models.
        classes: the names of the model classes with such a head, by model type, from transformers' own tables.
        load: builds the examples by split; called with the model, the tables by split, the model's folder or hub id
            (for its processor or tokenizer), and the options.
        records: suffixes of the record files (CSV and so on) that can hold such data.
        arrays: whether the data may be given as arrays of model inputs and labels.
        unlabelled: whether labels are optional (``data.labels=none``).
        asked: whether the user must choose this kind explicitly, because every model fits it.
        part: returns the part of a loaded model that is reduced; None for the whole model.
    """

    inputs: tuple[str, ...]
    auto: Any
    classes: Mapping[str, str | Sequence[str]]
    load: Callable[[PreTrainedModel, Mapping[str, Table], str, DataOptions], dict[str, Examples]]
    records: Sequence[str] = SUFFIXES
    arrays: bool = False
    unlabelled: bool = False
    asked: bool = False
    part: Callable[[PreTrainedModel], PreTrainedModel] | None = None

    def suits(self, model_type: str, architecture: str) -> bool:
        """Whether a model of this type and class has the head of this kind."""
        # One model type can have several classes (DeiT has two); the table then holds a tuple.
        names = self.classes.get(model_type, ())
        return architecture in ({names} if isinstance(names, str) else set(names))


KINDS = {
    "image": Kind(
        ("pixel_values",),
        AutoModelForImageClassification,
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        load_labelled,
        arrays=True,
        unlabelled=True,
    ),
    "text": Kind(
        ("input_ids",),
        AutoModelForSequenceClassification,
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        load_labelled,
        arrays=True,
        unlabelled=True,
    ),
    "tokens": Kind(
        ("input_ids",),
        AutoModelForTokenClassification,
        auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        load_words,
        records=(".jsonl",),
        unlabelled=True,
    ),
    "audio": Kind(
        ("input_values", "input_features"),
        AutoModelForAudioClassification,
        auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
        load_labelled,
        arrays=True,
        unlabelled=True,
    ),
    "zero-shot": Kind(
        ("pixel_values",),
        AutoModelForZeroShotImageClassification,
        zero_shot.CLASSES,
        zero_shot.load_zero_shot,
        part=zero_shot.vision_tower,
    ),
    "embedding": Kind(
        ("input_ids", "pixel_values"),
        AutoModel,
        auto.MODEL_MAPPING_NAMES,
        load_labelled,
        unlabelled=True,
        asked=True,
    ),
}
"""Every kind by its name. To add one, write a function that builds examples from tables, such as ``load_words``, and
list it here."""


def load_task(
    model: PreTrainedModel,
    data: str | Path | Any,
    source: str | None = None,
    kind: str | None = None,
    options: DataOptions | None = None,
) -> Task:
    """Read a data set for a model, with the model's own processor or tokenizer.

    Args:
        model: a model with the head that the task is for, or without one for embeddings.
        data: one of the following, either in splits named train, test and validation (or val), or unsplit:

            * images and sounds: a folder with one subfolder per class; texts: a .csv, .tsv or .jsonl file;
            * .parquet or .arrow files, or a folder written by ``save_to_disk`` of ``datasets``, with a column of
              images, texts, words or sounds, and one of labels;
            * the name of a data set on the hub, ``owner/name``; an object of ``datasets``, streaming or not; or a
              pandas DataFrame with such columns;
            * without labels (``options.labels``): a .txt with one text per line, or any folder of images or sounds;
            * a .npz with model inputs and labels; the same as a mapping of arrays; or an iterable of mappings with
              model inputs and labels, as processors return them (see :func:`rltr.tasks.read.arrays.load_arrays`).
              Splits of these are a mapping by split.
        source: the model's folder or hub id, for its processor or tokenizer; None takes where ``model`` was loaded
            from. Not needed if ``data`` are model inputs.
        kind: a name in ``KINDS``; None infers it from the model's head.
        options: fractions, seed, columns and so on; None takes the defaults.

    Raises:
        RltrError: if data, model and processor do not fit each other; the message says why, and what to do.

    Warns about what may be a mistake: how classes without names were numbered, files that were left out, and a dense
    model that is no better than chance on 128 training inputs.
    """
    if kind is not None and kind not in KINDS:
        raise RltrError(f"there is no task kind {kind!r}; choose one of {', '.join(KINDS)}")
    fitting = [name for name, known in KINDS.items() if model.main_input_name in known.inputs]
    if not fitting or (kind is not None and kind not in fitting):
        raise RltrError(
            f"{type(model).__name__} takes {model.main_input_name}, which is for "
            f"{' or '.join(fitting) or 'no'} tasks, not {kind or 'one of ' + ', '.join(KINDS)}"
        )
    options, kind = options or DataOptions(), kind or _kind_of(model, fitting)
    if options.labels == "none" and not KINDS[kind].unlabelled:
        raise RltrError(f"{kind} tasks need labels, because they hold the class names; leave out data.labels=none")
    if KINDS[kind].asked:
        options = replace(options, labels="none")
    task = _load(model, data, source or model.name_or_path or "", kind, options)
    if options.bad_inputs == "skip":
        task = task.without_faults()
    check_fit(model, task.train)
    goal = measure_spread(model, task.train)
    for split in (task.train, task.validation, task.test):
        split.goal = goal
    say_implausible(model, task.train, "training")
    return with_goal(task, model, options.goal)


def _kind_of(model: PreTrainedModel, fitting: Sequence[str]) -> str:
    """The kind of task that a model's head is for, among the kinds that fit its input."""
    parents = [parent.__name__ for parent in type(model).__mro__]
    heads = [name for name in fitting if any(KINDS[name].suits(model.config.model_type, own) for own in parents)]
    kind = next((name for name in heads if not KINDS[name].asked), None)
    if kind is None:
        raise RltrError(
            f"{type(model).__name__} has no head that determines its task; name the kind of task with kind, "
            f"{' or '.join(heads or fitting)}"
        )
    return kind


def _load(model: PreTrainedModel, data: Any, source: str, kind: str, options: DataOptions) -> Task:
    """Read the data and divide them into train, validation and test."""
    data = from_frames(data)
    path = at_home(data) if isinstance(data, str | Path) else None
    if path is not None and path.exists():
        if holds_arrays(path, options):
            return _load_arrays(model, open_arrays(path, options), kind, options, str(path))
        tables = open_files(path, options) if holds_tables(path) else _open(model, path, kind, options)
    elif isinstance(data, str) and is_hub_name(data):
        tables = open_hub(data, options)
    elif path is not None:
        raise RltrError(f"there is no data at {from_here(path)}; check the path")
    elif is_datasets_object(data):
        tables = tables_of(data, options, type(data).__name__)
    else:
        return _load_arrays(model, data, kind, options, "the data")
    if not source:
        raise RltrError("this model was not loaded from a folder or the hub; give its folder as source")
    if options.labels == "none":
        made = load_unlabelled(model, tables, source, options, kind)
    else:
        made = KINDS[kind].load(model, tables, source, options)
    return assemble(made, kind, options, path or next(iter(tables.values())).data)


def _open(model: PreTrainedModel, path: Path, kind: str, options: DataOptions) -> dict[str, Table]:
    """Read the files that rltr reads itself, without ``datasets``: records of texts, folders of images and sounds."""
    form = FORMS[model.main_input_name]
    if form == "texts":
        return open_records(path, options, SUFFIXES if options.labels == "none" else KINDS[kind].records)
    suffixes = image_files.suffixes() if form == "images" else sound_files.SUFFIXES
    column = options.image_column if form == "images" else options.audio_column
    return open_folder(path, suffixes, form, column, options, OR_WITHOUT if KINDS[kind].unlabelled else "")


def _load_arrays(model: PreTrainedModel, data: Any, kind: str, options: DataOptions, name: str) -> Task:
    if not KINDS[kind].arrays:
        able = ", ".join(own for own, known in KINDS.items() if known.arrays)
        raise RltrError(f"{kind} tasks do not read arrays or iterables of model inputs; these do: {able}")
    if options.labels == "none":
        raise RltrError(
            f"{name}: arrays and iterables of model inputs need labels. To do without, use the model's own outputs as "
            "labels, as data.labels=none does for texts, images and sounds"
        )
    return load_arrays(model, data, kind, options, name)
