"""Texts, images or sounds without labels, for models that embed them or whose own decisions count as right."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.examples.base import Examples, Task
from rltr.tasks.examples.images import ImageExamples
from rltr.tasks.examples.sounds import SoundExamples, load_extractor, shortest_sound
from rltr.tasks.examples.texts import TextExamples
from rltr.tasks.examples.tokenizer import load_tokenizer, longest_text
from rltr.tasks.goals import Consistency, Embedding, Goal, Regression, TokenClassification
from rltr.tasks.goals.heads import goal_of
from rltr.tasks.goals.numbering import class_names
from rltr.tasks.options import DataOptions
from rltr.tasks.read import image_files, sound_files
from rltr.tasks.read.class_folders import split_folders
from rltr.tasks.read.file_search import find_files, say_left_out, there_is
from rltr.tasks.read.images import load_processor
from rltr.tasks.read.records import SUFFIXES, read_rows, read_text, say_blank
from rltr.tasks.read.splits import WHOLE, assemble, find_split_files
from rltr.tasks.read.stored_files import StoredFile
from rltr.tasks.read.tables import Table

TEXTS = (".txt", *SUFFIXES)

Stored = tuple[Sequence[StoredFile], Sequence[str], str | None]
"""Files, what each of them is called, and a digest of them all, if there is one."""
Written = tuple[Sequence[str | None], Sequence[str]]
"""Texts, and where each of them stands."""


def load_unlabelled(
    model: PreTrainedModel, data: Path, source: str, options: DataOptions, kind: str = "embedding"
) -> Task:
    """Read texts, images or sounds, whichever the model takes.

    Texts: a .txt with one in each line, or a .csv, .tsv or .jsonl with a column of them. Images and sounds: a folder,
    however deep. Any may come as a folder with ``train``, ``test`` and, unless it is to be cut from train,
    ``validation`` (or ``val``); else it is divided by ``options.fractions``.

    Args:
        model: whatever takes texts, images or sounds.
        data: a file or a folder.
        source: the model's folder or hub id.
        options: how to read and divide.
        kind: ``embedding`` compares vectors; any other with ``unlabelled`` in ``KINDS`` reads the model's head, whose
            goal becomes a ``Consistency``.

    Raises:
        RltrError: if there is nothing of that kind, something is damaged, or processor or tokenizer cannot be loaded.
    """
    if model.main_input_name == "input_ids":
        texts = {split: _read(path, options) for split, path in _files(data, options).items()}
        return _task(model, _texts(model, source, options, kind, texts), kind, options, data)
    paths = _stored_files(model, data, options)
    named = {split: [path.relative_to(data).as_posix() for path in own] for split, own in paths.items()}
    made = _stored(model, source, {split: (own, named[split], None) for split, own in paths.items()})
    return _task(model, made, kind, options, data)


def load_unlabelled_tables(
    model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions, kind: str = "embedding"
) -> Task:
    """The same from tables, with a column of texts, images or sounds.

    Raises:
        RltrError: if the column is missing or holds something else, or processor or tokenizer cannot be loaded.
    """
    if model.main_input_name == "input_ids":
        blank = options.bad_inputs == "skip"
        texts = {split: table.texts(options.text_column, blank) for split, table in tables.items()}
        places = {split: [table.place(i) for i in range(len(table))] for split, table in tables.items()}
        made = _texts(model, source, options, kind, {split: (own, places[split]) for split, own in texts.items()})
    else:
        images = model.main_input_name == "pixel_values"
        columns = {
            split: table.images(options.image_column) if images else table.sounds(options.audio_column)
            for split, table in tables.items()
        }
        made = _stored(
            model, source, {split: (own, tables[split].places(), same) for split, (own, same) in columns.items()}
        )
    return _task(model, made, kind, options, next(iter(tables.values())).data)


def forget_labels(examples: Examples) -> None:
    """Take labels away: from now on, the dense model's own decisions count as right."""
    answer = examples.goal.shape(examples.labels, examples.classes)
    examples.goal, examples.labels = Consistency(examples.goal, answer), torch.zeros(len(examples), 0)


def _task(
    model: PreTrainedModel, splits: Mapping[str, Examples], kind: str, options: DataOptions, data: object
) -> Task:
    goal: Goal
    classes: list[str] = []
    if kind == "embedding":
        goal = Embedding(model.config.hidden_size, options.pooling)
    else:
        lengths = [examples.lengths() or () for examples in splits.values()] if kind == "tokens" else []
        longest = max((length for split in lengths for length in split), default=0)
        goal, outputs = goal_of(model, longest), model.config.num_labels or 0
        classes = [] if isinstance(goal, Regression) else class_names(model.config)
        goal = Consistency(goal, (longest, outputs) if isinstance(goal, TokenClassification) else (outputs,))
    for examples in splits.values():
        examples.goal, examples.classes = goal, classes
    return assemble(list(splits), splits.__getitem__, kind, options, data)


def _texts(
    model: PreTrainedModel, source: str, options: DataOptions, kind: str, texts: Mapping[str, Written]
) -> dict[str, Examples]:
    tokenizer = load_tokenizer(model, source)
    if kind == "tokens":  # a token's place is that of its answer, whatever the batch
        tokenizer.padding_side = "right"
    longest = longest_text(model, tokenizer, options.max_tokens)
    return {
        split: TextExamples(own, torch.zeros(len(own), 0), [], tokenizer, longest, places)
        for split, (own, places) in texts.items()
    }


def _stored(model: PreTrainedModel, source: str, files: Mapping[str, Stored]) -> dict[str, Examples]:
    if model.main_input_name == "pixel_values":
        processor, channels = load_processor(model, source)
        return {
            split: ImageExamples(own, torch.zeros(len(own), 0), names, [], processor, channels, identity=identity)
            for split, (own, names, identity) in files.items()
        }
    extractor = load_extractor(model, source)
    shortest = shortest_sound(model, extractor)
    return {
        split: SoundExamples(own, torch.zeros(len(own), 0), names, [], extractor, identity=identity, shortest=shortest)
        for split, (own, names, identity) in files.items()
    }


def _files(data: Path, options: DataOptions) -> dict[str, Path]:
    if not data.is_dir():
        return {WHOLE: data}
    return find_split_files(data, TEXTS, options)


def _read(path: Path, options: DataOptions) -> tuple[list[str], list[str]]:
    """The texts of a file, and where each of them stands."""
    lines = list(_lines(path) if path.suffix.lower() == ".txt" else _column(path, options))
    if not lines:
        raise RltrError(f"{path} has no texts; it needs at least one")
    return [text for _, text in lines], [f"{path}, line {line}" for line, _ in lines]


def _column(path: Path, options: DataOptions) -> Iterator[tuple[int, str]]:
    for line, record in read_rows(path, (options.text_column,)):
        yield line, read_text(record, options, f"{path}, line {line}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        # Not splitlines, which also divides at form feeds and U+2028, which stand within texts.
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except OSError as error:
        raise RltrError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RltrError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    yield from ((line, text.strip()) for line, text in enumerate(lines, 1) if text.strip())
    say_blank(path, [line for line, text in enumerate(lines, 1) if not text.strip()], len(lines))


def _stored_files(model: PreTrainedModel, data: Path, options: DataOptions) -> dict[str, list[Path]]:
    images = model.main_input_name == "pixel_values"
    what, suffixes = ("images", image_files.suffixes()) if images else ("sounds", sound_files.SUFFIXES)
    if not data.is_dir():
        raise RltrError(f"{data} is not a folder; this model needs a folder of {what}")
    found = {}
    for split, root in split_folders(data, options).items():
        found[split] = find_files(root, suffixes)
        if not found[split].files:
            looked = f"looked for {' '.join(sorted(suffixes))}{there_is(found[split])}"
            raise RltrError(f"no {what} in {root} ({looked})")
    say_left_out(data, found.values(), what)
    return {split: part.files for split, part in found.items()}
