"""Words with a class each (named entities, parts of speech), from JSONL files with two lists in every record."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rltr.errors import RltrError
from rltr.tasks.examples import Examples, Index, Task
from rltr.tasks.goals import TokenClassification
from rltr.tasks.goals.token_classes import UNLABELLED
from rltr.tasks.labels import number_classes
from rltr.tasks.options import DataOptions
from rltr.tasks.splits import SPLITS, divide, find_splits
from rltr.tasks.text import load_tokenizer, longest_text, read_rows


class Sentence(NamedTuple):
    """One record: words, the class of each as written, and where it stands."""

    words: list[str]
    labels: list[str]
    where: str


class TokenExamples(Examples):
    """Sentences of words; the first token of a word carries its class, all others none.

    Args:
        sentences: one per example.
        number: the number of each class.
        classes: the names of the classes, by label.
        tokenizer: the model's own, a fast one.
        longest: most tokens of a sentence, special ones included; None for no limit.

    Raises:
        RltrError: if nothing that has a label is left of a sentence.
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
        self.tokenizer = tokenizer
        self.longest_tokens = longest
        all_places = self._places()
        self._tokens = [len(places) for places in all_places]
        labels = torch.full((len(sentences), max(self._tokens)), UNLABELLED)
        for row, (sentence, places) in enumerate(zip(self.sentences, all_places, strict=True)):
            for token, (before, word) in enumerate(pairwise([None, *places])):
                if word is not None and word != before:
                    labels[row, token] = number[sentence.labels[word]]
            if not bool((labels[row] != UNLABELLED).any()):
                raise RltrError(
                    f"{sentence.where}: no labelled word is left; likely cause: nothing but labels of {UNLABELLED}, or "
                    f"more tokens before it than the model's {longest}"
                )
        super().__init__(labels, [" ".join(sentence.words)[:48] for sentence in sentences], classes)
        self.goal = TokenClassification(max(self._tokens))

    def _encode(self, words: Sequence[Sequence[str]], **options: Any) -> Any:
        cut = {"truncation": self.longest_tokens is not None, "max_length": self.longest_tokens}
        return self.tokenizer([list(each) for each in words], is_split_into_words=True, **cut, **options)

    def _places(self) -> list[list[int | None]]:
        """Which word each token is of; None for special tokens."""
        encoded = self._encode([sentence.words for sentence in self.sentences])
        return [encoded.word_ids(row) for row in range(len(self.sentences))]

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: ``input_ids`` and ``attention_mask``, ``(rows, tokens)``, and what else the model takes."""
        words = [self.sentences[i].words for i in torch.as_tensor(index, dtype=torch.long).tolist()]
        return dict(self._encode(words, padding=True, return_tensors="pt", return_attention_mask=True))

    def lengths(self) -> Sequence[int]:
        """See ``Examples``; special tokens count."""
        return self._tokens

    def words(self, i: int) -> list[str]:
        """See ``Examples``; special tokens are among them, and what goes on with a word begins with ``##``."""
        encoded = self._encode([self.sentences[i].words])
        ids, places = encoded["input_ids"][0], encoded.word_ids(0)
        texts = [str(self.tokenizer.decode([number])).strip() for number in ids]
        goes_on = [word is not None and word == before for before, word in pairwise([None, *places])]
        return ["##" + text.removeprefix("##") if more else text for text, more in zip(texts, goes_on, strict=True)]


def load_tokens(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read sentences of words with a class each.

    Either one .jsonl, which is divided by ``options.fractions``, or a folder with ``train``, ``validation`` (or
    ``val``) and ``test``. Every record has a list of words (``options.text_column``) and an equally long list of
    classes (``options.label_column``), as names or numbers; -100 for words that do not count.

    Raises:
        RltrError: if a file is missing or damaged, the lists do not fit, the classes are not the head's, or the model
            has no fast tokenizer.
    """
    tokenizer = load_tokenizer(model, source)
    if not tokenizer.is_fast:
        raise RltrError(
            f"the tokenizer of {source!r} cannot say which word a token is of; it needs a tokenizer.json "
            "(a fast tokenizer)"
        )
    if data.is_dir():
        files = find_splits(data, [path for path in data.glob("*.jsonl") if path.stem.lower() in SPLITS])
    elif data.suffix == ".jsonl":
        files = {"all": data}
    else:
        raise RltrError(f"{data} is no .jsonl; words with a class each come as two lists per record")
    records = {split: _sentences(path, options) for split, path in files.items()}
    written = {label for split in records.values() for sentence in split for label in sentence.labels}
    number, classes = number_classes(written - {str(UNLABELLED)}, model.config)
    number[str(UNLABELLED)] = UNLABELLED
    longest = longest_text(model, tokenizer)

    def examples(split: str) -> TokenExamples:
        return TokenExamples(records[split], number, classes, tokenizer, longest)

    if "all" in records:
        return divide(examples("all"), "tokens", options, data)
    return Task(examples("train"), examples("validation"), examples("test"), "tokens")


def _sentences(path: Path, options: DataOptions) -> list[Sentence]:
    found = []
    for line, record in read_rows(path):
        where = f"{path}, line {line}"
        words, labels = (_list(record, name, where) for name in (options.text_column, options.label_column))
        if len(words) != len(labels) or not words:
            raise RltrError(
                f"{where}: {len(words)} words but {len(labels)} labels; every word needs one, and one word at least"
            )
        found.append(Sentence(words, labels, where))
    if not found:
        raise RltrError(f"{path} has no records; it needs at least one with a list of words and a list of labels")
    return found


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
