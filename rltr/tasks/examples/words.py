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


def load_words(
    model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions
) -> dict[str, Examples]:
    """Sentences by split.

    Args:
        model: with a class for every token.
        tables: by split, each with a column of lists of words, and one of equally long lists of classes, as names or
            numbers; -100 for words that do not count.
        source: the model's folder or hub id.
        options: the columns, and what becomes of sentences that cannot be used.

    Raises:
        RltrError: if a column is missing, the lists do not fit, the classes are not the head's, or the model has no
            fast tokenizer.
    """
    words = {split: _words(table, options) for split, table in tables.items()}

    def fit(written: dict[str, list[Written]], ways: Sequence[Way]) -> tuple[dict[str, int], list[str]]:
        found = {label for split in written.values() for labels in split for label in labels}
        return number_classes(found - {str(UNLABELLED)}, model.config, ways)

    (number, classes), written = fit_labels(tables, options.label_column, fit)
    tokenizer = load_tokenizer(model, source)
    if not tokenizer.is_fast:
        raise RltrError(
            f"the tokenizer of {source!r} cannot say which word a token is of; it needs a tokenizer.json "
            "(a fast tokenizer)"
        )
    made: dict[str, Examples] = {}
    for split, table in tables.items():
        sentences = list(map(Sentence, words[split], map(list, written[split]), table.places))
        numbered = {**number, str(UNLABELLED): UNLABELLED}
        longest = longest_text(model, tokenizer, options.max_tokens)
        made[split] = TokenExamples(sentences, numbered, classes, tokenizer, longest)
        faults = (fault for i in range(len(sentences)) if (fault := made[split].fault(i)))
        if options.bad_inputs == "refuse" and (fault := next(faults, None)):
            raise RltrError(f"{fault}; mend it, or leave such sentences out: data.bad_inputs=skip")
    return made


def _words(table: Table, options: DataOptions) -> list[list[str]]:
    """The words of every sentence, which has as many labels.

    Raises:
        RltrError: if one of the columns holds anything else than lists of strings and whole numbers, or a list is of
            another length.
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
                f"{place}: {len(own)} words but {len(theirs)} labels; every word needs one, and one word at least"
            )
    return [list(map(str, own)) for own in words]
