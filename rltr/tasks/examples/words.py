"""Examples that are sentences with a class per word (named entities, parts of speech)."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rltr.errors import RltrError
from rltr.recipe.data_options import DataOptions
from rltr.tasks.examples.base import Examples, Index, digest
from rltr.tasks.examples.tokenizer import encodable, load_tokenizer, longest_text, tokenizer_facts, warn_if_cut
from rltr.tasks.goals import TokenClassification
from rltr.tasks.goals.numbering import Way, number_classes
from rltr.tasks.goals.token_classes import UNLABELLED
from rltr.tasks.read.labels import Written, fit_labels
from rltr.tasks.read.tables import Table, each


class Sentence(NamedTuple):
    """One record: its words, the class of each word as text, and its location for messages."""

    words: list[str]
    labels: list[str]
    where: str


class TokenExamples(Examples):
    """Sentences with a class per word; only the first token of a word has a label.

    Rows are always padded at their end, whatever the tokenizer's padding side, so that tokens and labels are aligned.

    Args:
        sentences: one per example.
        number: the class index of each class name.
        classes: the names of the classes, by label.
        tokenizer: the model's own; it must be a fast one.
        longest: largest number of tokens of a sentence, special ones included; None for no limit.
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
        # Tokenizers refuse these sentences. They get no labels, so `fault` reports them, and the others can be used.
        self._broken = {i for i, sentence in enumerate(sentences) if not all(map(encodable, sentence.words))}
        self.tokenizer = tokenizer
        self.longest_tokens = longest
        all_places = self._places()
        self._tokens = [len(places) for places in all_places]
        full = [own.words for own, tokens in zip(self.sentences, self._tokens, strict=True) if tokens == longest]
        warn_if_cut(tokenizer, longest, full, is_split_into_words=True)
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
        """Index of the word that each token belongs to; None for special tokens."""
        encoded = self._encode([sentence.words for sentence in self.sentences])
        return [encoded.word_ids(row) for row in range(len(self.sentences))]

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: ``input_ids``, ``attention_mask`` and the tokenizer's other outputs, ``(rows, tokens)``."""
        words = [self.sentences[i].words for i in torch.as_tensor(index, dtype=torch.long).tolist()]
        padded = {"padding": True, "padding_side": "right", "return_attention_mask": True}
        return dict(self._encode(words, return_tensors="pt", **padded))

    def lengths(self) -> Sequence[int]:
        """See ``Examples``; special tokens count."""
        return self._tokens

    def fingerprint(self) -> str:
        """See ``Examples``: covers the words and the tokenizer."""
        facts = tokenizer_facts(self.tokenizer, self.longest_tokens)
        return digest([*facts, *(json.dumps(sentence.words) for sentence in self.sentences)])

    def fault(self, i: int) -> str | None:
        """See ``Examples``."""
        if i in self._broken:
            return f"{self.sentences[i].where}: a word contains a lone surrogate (half of a character), invalid Unicode"
        if bool((self.labels[i] != UNLABELLED).any()):
            return None
        return (
            f"{self.sentences[i].where}: no labelled word is left; likely cause: all labels are {UNLABELLED}, or the "
            f"first labelled word is beyond the model's {self.longest_tokens} tokens"
        )

    def words(self, i: int) -> list[str]:
        """See ``Examples``; special tokens are included, and a token that continues a word begins with ``##``."""
        encoded = self._encode([self.sentences[i].words])
        ids, places = encoded["input_ids"][0], encoded.word_ids(0)
        texts = [str(self.tokenizer.decode([number])).strip() for number in ids]
        goes_on = [word is not None and word == before for before, word in pairwise([None, *places])]
        return ["##" + text.removeprefix("##") if more else text for text, more in zip(texts, goes_on, strict=True)]


def load_words(
    model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions
) -> dict[str, Examples]:
    """Load sentences with a class per word, by split.

    Args:
        model: a token classification model.
        tables: by split, each with a column of lists of words, and one of equally long lists of classes, as names or
            numbers; -100 for words that do not count.
        source: the model's folder or hub id.
        options: the names of the columns, and how sentences that cannot be used are handled.

    Raises:
        RltrError: if a column is missing, the lists have different lengths, the classes do not fit the head, or the
            model has no fast tokenizer.
    """
    words = {split: _words(table, options) for split, table in tables.items()}

    def fit(written: dict[str, list[Written]], ways: Sequence[Way]) -> tuple[dict[str, int], list[str]]:
        found = {label for split in written.values() for labels in split for label in labels}
        return number_classes(found - {str(UNLABELLED)}, model.config, ways)

    (number, classes), written = fit_labels(tables, options.label_column, fit)
    tokenizer = load_tokenizer(model, source)
    if not tokenizer.is_fast:
        raise RltrError(
            f"the tokenizer of {source!r} cannot map tokens to words; it needs a tokenizer.json (a fast tokenizer)"
        )
    made: dict[str, Examples] = {}
    for split, table in tables.items():
        sentences = list(map(Sentence, words[split], map(list, written[split]), table.places))
        numbered = {**number, str(UNLABELLED): UNLABELLED}
        longest = longest_text(model, tokenizer, options.max_tokens)
        made[split] = TokenExamples(sentences, numbered, classes, tokenizer, longest)
        faults = (fault for i in range(len(sentences)) if (fault := made[split].fault(i)))
        if options.bad_inputs == "refuse" and (fault := next(faults, None)):
            raise RltrError(f"{fault}; correct it, or leave such sentences out: data.bad_inputs=skip")
    return made


def _words(table: Table, options: DataOptions) -> list[list[str]]:
    """The words of every sentence, after checking that each word has a label.

    Raises:
        RltrError: if a value is not a list of strings or whole numbers, or a sentence is empty or does not have exactly
            one label per word.
    """
    columns = {
        name: list(each(table.column(name, f"data.{setting}_column")))
        for setting, name in (("text", options.text_column), ("label", options.label_column))
    }
    for name, column in columns.items():
        for place, value in zip(table.places, column, strict=True):
            if not isinstance(value, list) or not all(
                isinstance(part, str | int) and not isinstance(part, bool) for part in value
            ):
                raise RltrError(
                    f"{place}: {name!r} must be a list of strings or whole numbers, not "
                    f"{json.dumps(value, default=str)[:80]}"
                )
    words, labels = columns.values()
    for place, own, theirs in zip(table.places, words, labels, strict=True):
        if len(own) != len(theirs) or not own:
            raise RltrError(
                f"{place}: {len(own)} words but {len(theirs)} labels; a sentence needs one label per word, and at "
                "least one word"
            )
    return [list(map(str, own)) for own in words]
