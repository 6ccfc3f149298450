"""Texts with a label each (a class, several, or a number), from a CSV, TSV or JSONL file, or from a table."""

import csv
import json
import logging
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rltr.errors import RltrError
from rltr.tasks.examples import Examples, Index, Task, digest
from rltr.tasks.heads import SEPARATOR, read_labels
from rltr.tasks.options import DataOptions
from rltr.tasks.source import load_part
from rltr.tasks.splits import WHOLE, assemble, find_splits, is_split
from rltr.tasks.table_labels import read_table_labels
from rltr.tasks.tables import Table

SUFFIXES = (".csv", ".tsv", ".jsonl")
TOKENIZED = 1_000
"""Texts that are read and tokenized at a time where all of them are."""
log = logging.getLogger(__name__)
_said: WeakSet[PreTrainedTokenizerBase] = WeakSet()
"""Tokenizers of which it was said that texts are cut: once is enough for all splits."""


class Record(NamedTuple):
    """One line of a file: its text and its label, as written, and where it stands."""

    text: str
    label: str
    place: str


class TextExamples(Examples):
    """Texts, tokenized when they are asked for and cut to what the model can take, which is said once.

    Args:
        texts: one per example, in memory or read when asked for; None is an empty one.
        labels: what is true of each.
        classes: the names of the classes, by label.
        tokenizer: the model's own.
        longest: most tokens of a text, special ones included; None for no limit.
        places: what messages call each text; None numbers them.
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Shaped[Tensor, "examples *label"],
        classes: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        longest: int | None,
        places: Sequence[str] | None = None,
    ) -> None:
        super().__init__(labels, [_short(text or "") for text in texts], classes)
        self.texts = texts
        self.tokenizer = tokenizer
        self.longest_tokens = longest
        self.places = places
        self._lengths: list[int] | None = None

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: ``input_ids`` and ``attention_mask``, ``(rows, tokens)``, and what else the model takes."""
        texts = [self.texts[i] or "" for i in torch.as_tensor(index, dtype=torch.long).tolist()]
        inputs = dict(
            self.tokenizer(
                texts,
                truncation=self.longest_tokens is not None,
                max_length=self.longest_tokens,
                padding=True,
                return_tensors="pt",
                return_attention_mask=True,
            )
        )
        lengths = inputs["attention_mask"].sum(1).tolist()
        self._say_if_cut([text for text, length in zip(texts, lengths, strict=True) if length == self.longest_tokens])
        return inputs

    def lengths(self) -> Sequence[int]:
        """See ``Examples``; special tokens count."""
        if self._lengths is None:
            self._lengths = []
            for start in range(0, len(self), TOKENIZED):
                texts = [text or "" for text in self.texts[start : start + TOKENIZED]]
                cut = self.tokenizer(texts, truncation=self.longest_tokens is not None, max_length=self.longest_tokens)
                self._lengths += [len(tokens) for tokens in cut["input_ids"]]
        return self._lengths

    def _say_if_cut(self, texts: Sequence[str]) -> None:
        """Say that texts are cut, if one of these is, which are as long as may be."""
        if self.tokenizer in _said or not texts:
            return
        whole = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        longest = max(map(len, whole))
        if longest > (self.longest_tokens or 0):
            _said.add(self.tokenizer)
            # How long, and not which: a text may be nobody else's business.
            log.warning("texts are cut to the %d tokens that the model takes; one has %d", self.longest_tokens, longest)

    def fingerprint(self) -> str:
        """See ``Examples``: of the texts and the tokenizer."""
        return digest([*tokenizer_facts(self.tokenizer, self.longest_tokens), *(text or "" for text in self.texts)])

    def fault(self, i: int) -> str | None:
        """See ``Examples``."""
        if (self.texts[i] or "").strip():
            return None
        return f"{self.places[i] if self.places else f'text {i}'} is empty"

    def words(self, i: int) -> list[str]:
        """See ``Examples``; special tokens are among them.

        As WordPiece writes them, whatever the tokenizer's habit: what goes on with a word begins with ``##``.
        """
        text, tokenizer = self.texts[i] or "", self.tokenizer
        cut = tokenizer(
            text,
            truncation=self.longest_tokens is not None,
            max_length=self.longest_tokens,
            return_offsets_mapping=tokenizer.is_fast,
        )
        ids, special = cut["input_ids"], set(tokenizer.all_special_ids)
        words = [str(tokenizer.decode([number])) for number in ids]
        if not tokenizer.is_fast:
            return words
        # Tokens themselves do not tell: byte-level BPE marks only those behind a space, and decoding loses the mark.
        for place in range(1, len(ids)):
            (_, before), (start, _) = cut["offset_mapping"][place - 1 : place + 1]
            apart = start > before or text[start : start + 1].isspace()
            if not apart and special.isdisjoint(ids[place - 1 : place + 1]):
                words[place] = "##" + words[place].removeprefix("##")
        return [word.strip() for word in words]


def _short(text: str) -> str:
    return textwrap.shorten(text, 48, placeholder=" …") or text[:48]


def load_texts(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read texts and labels.

    Either one file, which is divided by ``options.fractions``, or a folder with ``train``, ``test`` and, unless it
    shall be cut from train, ``validation`` (or ``val``), each a .csv or .tsv with a header, or a .jsonl; UTF-8.

    Raises:
        RltrError: if a file is missing or damaged, a column is missing, a text or a label is empty, the labels do not
            fit the model's head, or the model's tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(model, source)
    if data.is_dir():
        entries = [path for path in data.iterdir() if path.suffix in SUFFIXES and is_split(path.stem, options)]
        if not entries:
            raise RltrError(f"{data} holds no train, validation and test file ({', '.join(SUFFIXES)})")
        files = find_splits(data, entries, options)
    else:
        files = {WHOLE: data}
    records = {split: list(read_records(path, options)) for split, path in files.items()}
    for split, lines in records.items():
        if not lines:
            raise RltrError(f"{files[split]} has no records; it needs at least one with a text and a label")
    labelling = read_labels((line.label for split in records.values() for line in split), model.config)
    longest = longest_text(model, tokenizer)

    def examples(split: str) -> TextExamples:
        lines = records[split]
        texts, places = [line.text for line in lines], [line.place for line in lines]
        labels = labelling([line.label for line in lines])
        made = TextExamples(texts, labels, labelling.classes, tokenizer, longest, places)
        made.goal = labelling.goal
        return made

    return assemble(list(records), examples, "text", options, data)


def load_text_tables(model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions) -> Task:
    """Take texts from tables, by split, each with a column of texts and one of labels.

    Raises:
        RltrError: if a column is missing or holds something else, a text is empty, the labels do not fit the model's
            head, or the model's tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(model, source)
    texts = {
        split: table.texts(options.text_column, blank=options.bad_inputs == "skip") for split, table in tables.items()
    }
    labelling, labels = read_table_labels(tables, options.label_column, partial(read_labels, config=model.config))
    longest = longest_text(model, tokenizer)

    def examples(split: str) -> TextExamples:
        own, table = labelling(labels[split]), tables[split]
        places = [table.place(i) for i in range(len(table))]
        made = TextExamples(texts[split], own, labelling.classes, tokenizer, longest, places)
        made.goal = labelling.goal
        return made

    return assemble(list(tables), examples, "text", options, next(iter(tables.values())).data)


def load_tokenizer(model: PreTrainedModel, source: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer and make sure that the two fit.

    Raises:
        RltrError: if it is missing, knows no words, knows more than the model, or cannot pad.
    """
    files = "a tokenizer.json and a tokenizer_config.json"
    tokenizer: PreTrainedTokenizerBase = load_part(AutoTokenizer, source, "tokenizer", files)
    # Where the files are missing, transformers makes some families a tokenizer to which every word is unknown.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - {"▁"}:
        raise RltrError(f"the tokenizer of {source!r} knows no words; likely cause: its files ({files}) are missing")
    table = model.get_input_embeddings()
    if isinstance(table, nn.Embedding) and len(tokenizer) > table.num_embeddings:
        raise RltrError(
            f"the tokenizer of {source!r} has {len(tokenizer)} tokens but the model only {table.num_embeddings}; "
            "use the tokenizer that the model was trained with, or resize_token_embeddings() and fine-tune"
        )
    pad = getattr(model.config, "pad_token_id", None)
    if tokenizer.pad_token is not None and pad is not None and pad != tokenizer.pad_token_id:
        raise RltrError(
            f"the tokenizer of {source!r} pads with token {tokenizer.pad_token_id} but the model with {pad}; likely "
            "cause: it is another model's. Use the one the model was trained with, or set model.config.pad_token_id"
        )
    if tokenizer.pad_token is None:
        raise RltrError(
            f"the tokenizer of {source!r} has no padding token, so texts of different lengths cannot share a batch; "
            "set tokenizer.pad_token and model.config.pad_token_id, and save both to a folder"
        )
    return tokenizer


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase, longest: int | None) -> list[str]:
    """All that decides which tokens a text becomes, for a fingerprint; ``longest`` is what it is cut to."""
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    settings = [type(tokenizer).__name__, tokenizer.padding_side, tokenizer.truncation_side, longest]
    return [rules, repr(settings)]


def longest_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Most tokens that both model and tokenizer can take; None if neither has a limit."""
    # A tokenizer without a limit says 1e30.
    limits = [position_limit(model), tokenizer.model_max_length]
    return min((int(limit) for limit in limits if limit is not None and 0 < limit < 2**31), default=None)


def position_limit(model: PreTrainedModel) -> int | None:
    """Most tokens of a text that a model has positions for; None if it has no limit."""
    limits = [getattr(model.config, "max_position_embeddings", None)]
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding) and table.padding_idx is not None:
            # RoBERTa and its kin number positions from padding_idx + 1: a table of 514 rows takes 512 tokens.
            limits.append(table.num_embeddings - table.padding_idx - 1)
    return min((int(limit) for limit in limits if limit is not None and limit > 0), default=None)


def read_records(path: Path, options: DataOptions) -> Iterator[Record]:
    """Read the text and the label of every record of a file.

    Raises:
        RltrError: naming file and line, if it cannot be read, or a record lacks a text or a label.
    """
    for line, record in read_rows(path):
        place = f"{path}, line {line}"
        text = read_field(record, options.text_column, place, options.bad_inputs == "skip")
        label = record.get(options.label_column)
        if isinstance(label, list):  # several classes or numbers; none of the classes, if it is empty
            yield Record(text, SEPARATOR.join(map(str, label)), place)
        else:
            yield Record(text, read_field(record, options.label_column, place).strip(), place)


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read a file record by record, each with the number of its line.

    Raises:
        RltrError: naming file and line, if it cannot be read.
    """
    if path.suffix not in SUFFIXES:
        raise RltrError(f"{path} is no data file rltr knows; it reads {', '.join(SUFFIXES)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _jsonl(path, file) if path.suffix == ".jsonl" else _table(path, file)
    except OSError as error:
        raise RltrError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RltrError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _table(path: Path, file: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    try:
        for record in reader:
            if None in record or None in record.values():
                raise RltrError(
                    f"{path}, line {reader.line_num}: not as many fields as the header has "
                    f"({', '.join(reader.fieldnames or [])}); put texts that hold the separator in double quotes"
                )
            yield reader.line_num, record
    except csv.Error as error:
        line = reader.reader.line_num  # reader.line_num is still that of the record before
        raise RltrError(f"{path}, line {line}: {error}; the file is damaged or no {path.suffix}") from error


def _jsonl(path: Path, file: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise RltrError(f"{path}, line {number}: no JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(record, dict):
            raise RltrError(f"{path}, line {number}: every line must be a JSON object with a text and a label")
        yield number, record


def read_field(record: Mapping[str, Any], column: str, where: str, may_lack: bool | None = None) -> str:
    """A text or a label as it is written.

    Args:
        record: all fields, by column.
        column: which one.
        where: the record stands, for messages.
        may_lack: whether an empty field is fine, which is given back as ``""``; None where nobody could ask for that.

    Raises:
        RltrError: if there is none, or it is neither text nor number.
    """
    if column not in record:
        raise RltrError(f"{where}: there is no column {column!r}; there are {', '.join(map(repr, record))}")
    value = record[column]
    if may_lack and (value is None or not str(value).strip()):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RltrError(f"{where}: {column!r} must be a string or a number, not {json.dumps(value)}")
    if not str(value).strip():
        raise RltrError(
            f"{where}: {column!r} is empty; fill it in or remove the record"
            f"{', or leave such texts out: data.bad_inputs=skip' if may_lack is not None else ''}"
        )
    return str(value)
