"""Examples that are texts, tokenized when they are needed."""

import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rltr.errors import RltrError
from rltr.tasks.examples.base import Examples, Index, digest
from rltr.tasks.examples.files import CURE
from rltr.tasks.examples.tokenizer import tokenize, tokenize_all, tokenizer_facts, warn_if_cut
from rltr.tasks.read.tables import each

TOKENIZED = 1_000
"""Number of texts that are tokenized at a time when all lengths are computed."""


class TextExamples(Examples):
    """Texts, tokenized when they are needed and truncated to the model's limit, with a warning the first time.

    Args:
        texts: one per example, in memory or read on access; None is an empty text.
        labels: the label of each text.
        classes: the names of the classes, by label.
        tokenizer: the model's own.
        longest: largest number of tokens of a text, special ones included; None for no limit.
        places: how messages refer to each text, such as file and line; None uses indices.
    """

    def __init__(
        self,
        texts: Sequence[str | None],
        labels: Shaped[Tensor, "examples *label"],
        classes: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        longest: int | None,
        places: Sequence[str] | None = None,
    ) -> None:
        super().__init__(labels, [_short(text or "") for text in each(texts)], classes)
        self.texts = texts
        self.tokenizer = tokenizer
        self.longest_tokens = longest
        self.places = places
        self._lengths: list[int] | None = None
        self._broken: dict[int, str] = {}
        self._unusable: set[int] = set()

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: ``input_ids``, ``attention_mask`` and the tokenizer's other outputs, ``(rows, tokens)``."""
        chosen = torch.as_tensor(index, dtype=torch.long).tolist()
        texts = [self.texts[i] or "" for i in chosen]
        padded = {"padding": True, "return_tensors": "pt", "return_attention_mask": True}
        inputs = dict(tokenize(self.tokenizer, texts, list(map(self._called, chosen)), **self._cut, **padded))
        lengths = inputs["attention_mask"].sum(1).tolist()
        full = [text for text, length in zip(texts, lengths, strict=True) if length == self.longest_tokens]
        warn_if_cut(self.tokenizer, self.longest_tokens, full)
        return inputs

    def lengths(self) -> Sequence[int]:
        """See ``Examples``; special tokens count.

        Raises:
            RltrError: if a text cannot be tokenized, unless ``fault`` was called for it before.
        """
        lengths = self._counted()
        for i, fault in self._broken.items():
            if i not in self._unusable:
                raise RltrError(f"{self._called(i)} {fault}; {CURE}")
        return lengths

    def _counted(self) -> list[int]:
        """Number of tokens of each text, 0 if it cannot be tokenized."""
        if self._lengths is None:
            self._lengths = []
            for start in range(0, len(self), TOKENIZED):
                texts = [text or "" for text in self.texts[start : start + TOKENIZED]]
                tokens, faults = tokenize_all(self.tokenizer, texts, **self._cut)
                self._lengths += map(len, tokens)
                self._broken |= {start + i: fault for i, fault in faults.items()}
        return self._lengths

    @property
    def _cut(self) -> dict[str, Any]:
        return {"truncation": self.longest_tokens is not None, "max_length": self.longest_tokens}

    def _called(self, i: int) -> str:
        return self.places[i] if self.places else f"text {i}"

    def fingerprint(self) -> str:
        """See ``Examples``: covers the texts and the tokenizer."""
        facts = tokenizer_facts(self.tokenizer, self.longest_tokens)
        return digest([*facts, *(text or "" for text in each(self.texts))])

    def fault(self, i: int) -> str | None:
        """See ``Examples``."""
        self._counted()
        fault = self._broken.get(i) if (self.texts[i] or "").strip() else "is empty"
        if fault is None:
            return None
        self._unusable.add(i)
        return f"{self._called(i)} {fault}"

    def words(self, i: int) -> list[str]:
        """See ``Examples``; special tokens are included.

        Tokens are written as in WordPiece, whatever the tokenizer: a token that continues a word begins with ``##``.
        """
        text, tokenizer = self.texts[i] or "", self.tokenizer
        cut = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, **self._cut)
        ids, special = cut["input_ids"], set(tokenizer.all_special_ids)
        words = [str(tokenizer.decode([number])) for number in ids]
        if not tokenizer.is_fast:
            return words
        # Offsets are needed: byte-level BPE marks only tokens that follow a space, and decoding removes the mark.
        for place in range(1, len(ids)):
            (_, before), (start, _) = cut["offset_mapping"][place - 1 : place + 1]
            apart = start > before or text[start : start + 1].isspace()
            if not apart and special.isdisjoint(ids[place - 1 : place + 1]):
                words[place] = "##" + words[place].removeprefix("##")
        return [word.strip() for word in words]


def _short(text: str) -> str:
    return textwrap.shorten(text, 48, placeholder=" …") or text[:48]
