"""Build examples (texts, images or sounds, depending on the model) from tables, with or without labels."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from rltr.recipe.data_options import OR_WITHOUT, DataOptions
from rltr.tasks.examples.base import Examples
from rltr.tasks.examples.images import ImageExamples, load_processor
from rltr.tasks.examples.sounds import SoundExamples, load_extractor, shortest_sound
from rltr.tasks.examples.texts import TextExamples
from rltr.tasks.examples.tokenizer import load_tokenizer, longest_text
from rltr.tasks.goals import Consistency, Embedding, Goal, Regression, TokenClassification
from rltr.tasks.goals.heads import LabelReader, goal_of, label_reader
from rltr.tasks.goals.numbering import class_names
from rltr.tasks.read.labels import read_table_labels
from rltr.tasks.read.tables import Table

Make: TypeAlias = Callable[..., Examples]
"""Factory of the examples of one split; called with their ``labels`` and the names of the ``classes``."""
FORMS = {"input_ids": "texts", "pixel_values": "images", "input_values": "sounds", "input_features": "sounds"}
"""The kind of input that a model takes, by ``model.main_input_name``."""


def prepare(model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions) -> dict[str, Make]:
    """Read the inputs of each split and load the model's tokenizer or processor; labels are added later.

    Args:
        model: a model of texts, images or sounds.
        tables: by split, each with a column of inputs.
        source: the model's folder or hub id.
        options: the names of the columns, and how bad inputs are handled.

    Returns:
        For each split, a function that builds its examples from labels and class names.

    Raises:
        RltrError: if a column is missing or has the wrong type, or the tokenizer or processor cannot be loaded.
    """
    form = FORMS[model.main_input_name]
    if form == "texts":
        tokenizer = load_tokenizer(model, source)
        texts = {own: table.texts(options.text_column, options.bad_inputs == "skip") for own, table in tables.items()}
        cut: dict[str, Any] = {"tokenizer": tokenizer, "longest": longest_text(model, tokenizer, options.max_tokens)}
        return {own: partial(TextExamples, texts[own], places=tables[own].places, **cut) for own in tables}
    own_class: Any = ImageExamples
    if form == "images":
        processor, channels = load_processor(model, source)
        settings: dict[str, Any] = {"processor": processor, "channels": channels}
    else:
        own_class, extractor = SoundExamples, load_extractor(model, source)
        settings = {"extractor": extractor, "shortest": shortest_sound(model, extractor)}
    setting = "image_column" if form == "images" else "audio_column"
    made: dict[str, Make] = {}
    for own, table in tables.items():
        files, identity = table.files(getattr(options, setting), form, f"data.{setting}")
        made[own] = partial(own_class, files, names=table.names, identity=identity, **settings)
    return made


def load_labelled(
    model: PreTrainedModel,
    tables: Mapping[str, Table],
    source: str,
    options: DataOptions,
    read: LabelReader | None = None,
    or_else: str = OR_WITHOUT,
) -> dict[str, Examples]:
    """Load labelled examples by split. A label is one class, several classes, or numbers.

    Args:
        model: the model; it needs a head if ``read`` is None.
        tables: by split, each with a column of inputs and one of labels.
        source: the model's folder or hub id.
        options: the names of the columns.
        read: parses the labels; None parses them as the model's head requires.
        or_else: advice that is appended to the error message if there are no labels.

    Raises:
        RltrError: if a column is missing or has the wrong type, the labels do not fit, or the tokenizer or processor
            cannot be loaded.
    """
    inputs = prepare(model, tables, source, options)
    labelling, labels = read_table_labels(tables, options.label_column, read or label_reader(model.config), or_else)
    made = {split: make(labels=labelling(labels[split]), classes=labelling.classes) for split, make in inputs.items()}
    for examples in made.values():
        examples.goal = labelling.goal
    return made


def load_unlabelled(
    model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions, kind: str
) -> dict[str, Examples]:
    """Load examples without labels by split: the dense model's embeddings or decisions are the reference.

    Args:
        model: a model of texts, images or sounds.
        tables: by split, each with a column of inputs.
        source: the model's folder or hub id.
        options: the names of the columns, and the pooling of embeddings.
        kind: ``embedding`` compares embeddings. Every other kind that is ``unlabelled`` in ``KINDS`` compares the
            outputs of the model's head, with the goal ``Consistency``.

    Raises:
        RltrError: if a column is missing or has the wrong type, or the tokenizer or processor cannot be loaded.
    """
    inputs = prepare(model, tables, source, options)
    made = {split: make(labels=torch.zeros(len(tables[split]), 0), classes=[]) for split, make in inputs.items()}
    goal, classes = _own_goal(model, list(made.values()), kind, options)
    for examples in made.values():
        examples.goal, examples.classes = goal, classes
    return made


def _own_goal(
    model: PreTrainedModel, splits: Sequence[Examples], kind: str, options: DataOptions
) -> tuple[Goal, list[str]]:
    """The goal for data without labels, and the names of the classes of the model's head."""
    if kind == "embedding":
        return Embedding(model.config.hidden_size, options.pooling), []
    outputs, longest = model.config.num_labels or 0, 0
    if kind == "tokens":
        for examples in splits:
            assert isinstance(examples, TextExamples)
            examples.tokenizer.padding_side = "right"  # a token keeps its position, whatever the batch is padded to
        longest = max(length for examples in splits for length in examples.lengths() or ())
    goal = goal_of(model, longest)
    answer = (longest, outputs) if isinstance(goal, TokenClassification) else (outputs,)
    return Consistency(goal, answer), [] if isinstance(goal, Regression) else class_names(model.config)


def forget_labels(examples: Examples) -> None:
    """Remove the labels, so that the dense model's own decisions are the reference from now on."""
    answer = examples.goal.shape(examples.labels, examples.classes)
    examples.goal, examples.labels = Consistency(examples.goal, answer), torch.zeros(len(examples), 0)
