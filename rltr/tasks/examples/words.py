"""Words with a class each (named entities, parts of speech): two lists in every record of a JSONL file or a table."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rltr.errors import RltrError
from rltr.tasks.examples.base import Examples, Index, Task, digest
from rltr.tasks.examples.tokenizer import encodable, load_tokenizer, longest_text, say_if_cut, tokenizer_facts
from rltr.tasks.goals import TokenClassification
from rltr.tasks.goals.numbering import WRITTEN, Way, number_classes
from rltr.tasks.goals.token_classes import UNLABELLED
from rltr.tasks.options import DataOptions
from rltr.tasks.read.records import read_rows
from rltr.tasks.read.splits import WHOLE, assemble, find_split_files
from rltr.tasks.read.table_labels import Written, fit_labels
from rltr.tasks.read.tables import Table

Classes: TypeAlias = tuple[dict[str, int], list[str]]
"""The number of each class as it is written, and the names of all classes of the head."""


class Sentence(NamedTuple):
    """One record: words, the class of each as written, and where it stands."""

    words: list[str]
    labels: list[str]
    where: str


class TokenExamples(Examples):
    """Sentences of words; the first token of a word carries its class, all others none.

    Rows are padded at their end, wherever the tokenizer itself would: a token's place is that of its label.

    Args:
        sentences: one per example.
        number: the number of each class.
        classes: the names of the classes, by label.
        tokenizer: the model's own, a fast one.
        longest: most tokens of a sentence, special ones included; None for no limit.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        number: Mapping[str, int],
        classes: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        longest: int | None,
    ) -> None:
        self.sentences = list(sentences)
        # No tokenizer takes them; they get no label, which is a fault, and never cost the rest.
        self._broken = {i for i, sentence in enumerate(sentences) if not all(map(encodable, sentence.words))}
        self.tokenizer = tokenizer
        self.longest_tokens = longest
        all_places = self._places()
        self._tokens = [len(places) for places in all_places]
        full = [own.words for own, tokens in zip(self.sentences, self._tokens, strict=True) if tokens == longest]
        say_if_cut(tokenizer, longest, full, is_split_into_words=True)
        labels = torch.full((len(sentences), max(self._tokens)), UNLABELLED)
        for row, (sentence, places) in enumerate(zip(self.sentences, all_places, strict=True)):
            for token, (before, word) in enumerate(pairwise([None, *places])):
                if word is not None and word != before and row not in self._broken:
                    labels[row, token] = number[sentence.labels[word]]
        super().__init__(labels, [" ".join(sentence.words)[:48] for sentence in sentences], classes)
        self.goal = TokenClassification(max(self._tokens))

    def _encode(self, words: Sequence[Sequence[str]], **options: Any) -> Any:
        cut = {"truncation": self.longest_tokens is not None, "max_length": self.longest_tokens}
        whole = [[word.encode("utf-8", "replace").decode() for word in each] for each in words]
        return self.tokenizer(whole, is_split_into_words=True, **cut, **options)

    def _places(self) -> list[list[int | None]]:
        """Which word each token is of; None for special tokens."""
        encoded = self._encode([sentence.words for sentence in self.sentences])
        return [encoded.word_ids(row) for row in range(len(self.sentences))]

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: ``input_ids`` and ``attention_mask``, ``(rows, tokens)``, and what else the model takes."""
        words = [self.sentences[i].words for i in torch.as_tensor(index, dtype=torch.long).tolist()]
        padded = {"padding": True, "padding_side": "right", "return_attention_mask": True}
        return dict(self._encode(words, return_tensors="pt", **padded))

    def lengths(self) -> Sequence[int]:
        """See ``Examples``; special tokens count."""
        return self._tokens

    def fingerprint(self) -> str:
        """See ``Examples``: of the words and the tokenizer."""
        facts = tokenizer_facts(self.tokenizer, self.longest_tokens)
        return digest([*facts, *(json.dumps(sentence.words) for sentence in self.sentences)])

    def fault(self, i: int) -> str | None:
        """See ``Examples``."""
        if i in self._broken:
            return f"{self.sentences[i].where}: a word holds a lone surrogate, half of a character, which is no Unicode"
        if bool((self.labels[i] != UNLABELLED).any()):
            return None
        return (
            f"{self.sentences[i].where}: no labelled word is left; likely cause: nothing but labels of {UNLABELLED}, "
            f"or more tokens before it than the model's {self.longest_tokens}"
        )

    def words(self, i: int) -> list[str]:
        """See ``Examples``; special tokens are among them, and what goes on with a word begins with ``##``."""
        encoded = self._encode([self.sentences[i].words])
        ids, places = encoded["input_ids"][0], encoded.word_ids(0)
        texts = [str(self.tokenizer.decode([number])).strip() for number in ids]
        goes_on = [word is not None and word == before for before, word in pairwise([None, *places])]
        return ["##" + text.removeprefix("##") if more else text for text, more in zip(texts, goes_on, strict=True)]


def load_tokens(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read sentences of words with a class each.

    Either one .jsonl, which is divided by ``options.fractions``, or a folder with ``train``, ``test`` and, unless it
    is to be cut from train, ``validation`` (or ``val``). Every record has a list of words (``options.text_column``) and
    an equally long list of classes (``options.label_column``), as names or numbers; -100 for words that do not count.

    Raises:
        RltrError: if a file is missing or damaged, the lists do not fit, the classes are not the head's, or the model
            has no fast tokenizer.
    """
    if data.is_dir():
        files = find_split_files(data, (".jsonl",), options)
    elif data.suffix.lower() == ".jsonl":
        files = {WHOLE: data}
    else:
        raise RltrError(f"{data} is no .jsonl; words with a class each come as two lists per record")
    sentences = {split: _sentences(path, options) for split, path in files.items()}
    return _task(model, sentences, _classes(sentences, model, WRITTEN), source, options, data)


def load_token_tables(model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions) -> Task:
    """The same from tables, with a column of lists of words and one of lists of classes.

    Raises:
        RltrError: if a column is missing, the lists do not fit, the classes are not the head's, or the model has no
            fast tokenizer.
    """
    words = {split: list(table.column(options.text_column, "data.text_column")) for split, table in tables.items()}

    def fit(written: dict[str, list[Written]], ways: Sequence[Way]) -> tuple[dict[str, list[Sentence]], Classes]:
        sentences = {
            split: [
                _sentence({options.text_column: own, options.label_column: labels}, tables[split].place(i), options)
                for i, (own, labels) in enumerate(zip(words[split], written[split], strict=True))
            ]
            for split in tables
        }
        return sentences, _classes(sentences, model, ways)

    sentences, classes = fit_labels(tables, options.label_column, fit)
    return _task(model, sentences, classes, source, options, next(iter(tables.values())).data)


def _classes(sentences: Mapping[str, Sequence[Sentence]], model: PreTrainedModel, ways: Sequence[Way]) -> Classes:
    written = {label for split in sentences.values() for sentence in split for label in sentence.labels}
    number, classes = number_classes(written - {str(UNLABELLED)}, model.config, ways)
    return {**number, str(UNLABELLED): UNLABELLED}, classes


def _task(
    model: PreTrainedModel,
    sentences: Mapping[str, Sequence[Sentence]],
    numbered: Classes,
    source: str,
    options: DataOptions,
    data: object,
) -> Task:
    tokenizer = load_tokenizer(model, source)
    if not tokenizer.is_fast:
        raise RltrError(
            f"the tokenizer of {source!r} cannot say which word a token is of; it needs a tokenizer.json "
            "(a fast tokenizer)"
        )
    (number, classes), longest = numbered, longest_text(model, tokenizer, options.max_tokens)

    def examples(split: str) -> TokenExamples:
        made = TokenExamples(sentences[split], number, classes, tokenizer, longest)
        faults = (fault for i in range(len(made)) if (fault := made.fault(i)))
        if options.bad_inputs == "refuse" and (fault := next(faults, None)):
            raise RltrError(f"{fault}; mend it, or leave such sentences out: data.bad_inputs=skip")
        return made

    return assemble(list(sentences), examples, "tokens", options, data)


def _sentences(path: Path, options: DataOptions) -> list[Sentence]:
    columns = (options.text_column, options.label_column)
    found = [_sentence(record, f"{path}, line {line}", options) for line, record in read_rows(path, columns)]
    if not found:
        raise RltrError(f"{path} has no records; it needs at least one with a list of words and a list of labels")
    return found


def _sentence(record: Mapping[str, Any], where: str, options: DataOptions) -> Sentence:
    words, labels = (_list(record, name, where) for name in (options.text_column, options.label_column))
    if len(words) != len(labels) or not words:
        raise RltrError(
            f"{where}: {len(words)} words but {len(labels)} labels; every word needs one, and one word at least"
        )
    return Sentence(words, labels, where)


def _list(record: Mapping[str, Any], column: str, where: str) -> list[str]:
    if column not in record:
        raise RltrError(
            f"{where}: there is no {column!r}; there are {', '.join(map(repr, record))}; "
            "name others with data.text_column and data.label_column"
        )
    value = record[column]
    if not isinstance(value, list) or not all(
        isinstance(part, str | int) and not isinstance(part, bool) for part in value
    ):
        raise RltrError(f"{where}: {column!r} must be a list of strings or whole numbers, not {json.dumps(value)[:80]}")
    return [str(part) for part in value]
