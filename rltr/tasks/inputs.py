"""Make examples of tables: texts, images or sounds, whichever the model takes, with or without labels."""

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
from rltr.tasks.goals.heads import Reader, goal_of, label_reader
from rltr.tasks.goals.numbering import class_names
from rltr.tasks.read.labels import read_table_labels
from rltr.tasks.read.tables import Table

Make: TypeAlias = Callable[..., Examples]
"""Makes examples when called with the ``labels`` of the inputs and the names of the ``classes``."""
FORMS = {"input_ids": "texts", "pixel_values": "images", "input_values": "sounds", "input_features": "sounds"}
"""What goes into a model, by the name of its main input."""


def prepare(model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions) -> dict[str, Make]:
    """Read the inputs of each split for the model's own tokenizer or processor; examples still need labels.

    Args:
        model: whatever takes texts, images or sounds.
        tables: by split, each with a column of inputs.
        source: the model's folder or hub id.
        options: the columns, and what becomes of bad inputs.

    Raises:
        RltrError: if a column is missing or holds something else, or tokenizer or processor cannot be loaded.
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
    read: Reader | None = None,
    or_else: str = OR_WITHOUT,
) -> dict[str, Examples]:
    """Examples by split, each with a label: one class, several classes, or numbers.

    Args:
        model: with a head, if ``read`` is None.
        tables: by split, each with a column of inputs and one of labels.
        source: the model's folder or hub id.
        options: the columns.
        read: what makes labels of what is written; None reads it for the model's head.
        or_else: what else can be done where there are no labels.

    Raises:
        RltrError: if a column is missing or holds something else, the labels do not fit, or tokenizer or processor
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
    """Examples by split, without labels: the dense model's embeddings or decisions count as right.

    Args:
        model: whatever takes texts, images or sounds.
        tables: by split, each with a column of inputs.
        source: the model's folder or hub id.
        options: the columns, and how an embedding is made.
        kind: ``embedding`` compares vectors; any other with ``unlabelled`` in ``KINDS`` reads the model's head, whose
            goal becomes a ``Consistency``.

    Raises:
        RltrError: if a column is missing or holds something else, or tokenizer or processor cannot be loaded.
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
    """The goal of a model without labels, and the names of the classes of its head."""
    if kind == "embedding":
        return Embedding(model.config.hidden_size, options.pooling), []
    outputs, longest = model.config.num_labels or 0, 0
    if kind == "tokens":
        for examples in splits:
            assert isinstance(examples, TextExamples)
            examples.tokenizer.padding_side = "right"  # a token's place is that of its answer, whatever the batch
        longest = max(length for examples in splits for length in examples.lengths() or ())
    goal = goal_of(model, longest)
    answer = (longest, outputs) if isinstance(goal, TokenClassification) else (outputs,)
    return Consistency(goal, answer), [] if isinstance(goal, Regression) else class_names(model.config)


def forget_labels(examples: Examples) -> None:
    """Remove the labels: the dense model's own decisions count as right from now on."""
    answer = examples.goal.shape(examples.labels, examples.classes)
    examples.goal, examples.labels = Consistency(examples.goal, answer), torch.zeros(len(examples), 0)
