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
"""Texts that are tokenized at a time to count the tokens of all."""


class TextExamples(Examples):
    """Texts, tokenized when they are needed and cut to the model's limit; a warning says so once.

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
        """See ``Examples``: ``input_ids`` and ``attention_mask``, ``(rows, tokens)``, and what else the model takes."""
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
            RltrError: if no tokens can be made of a text whose ``fault`` nobody asked for.
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
        """See ``Examples``: of the texts and the tokenizer."""
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
        """See ``Examples``; special tokens are among them.

        As WordPiece writes them, whatever the tokenizer's habit: what goes on with a word begins with ``##``.
        """
        text, tokenizer = self.texts[i] or "", self.tokenizer
        cut = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, **self._cut)
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
