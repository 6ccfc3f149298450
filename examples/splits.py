"""Labelled texts for the examples: remove near-duplicates, split into train, validation and test, write as JSONL."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rltr.system.files import atomic_write
from rltr.tasks.read.splits import divide

NAMES = ("train", "validation", "test")
OPENING = 400
"""Texts that begin with the same 400 characters are near-duplicates, whatever follows."""
NGRAM = 8
"""Words per n-gram. Texts are compared by their n-grams; eight equal words in a row are hardly ever chance."""
FRACTIONS = (0.55, 0.15, 0.3)
"""Fractions of train, validation and test; resolving one point of accuracy needs many test inputs."""


class Labelled(NamedTuple):
    """A text and the name of its class."""

    text: str
    label: str


def word_ngrams(text: str) -> set[tuple[str, ...]]:
    """All n-grams of :data:`NGRAM` words, ignoring digits and case; a shorter text is one n-gram."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return {tuple(words[start : start + NGRAM]) for start in range(max(1, len(words) - NGRAM + 1))}


def without_near_duplicates(records: Sequence[Labelled]) -> list[Labelled]:
    """Remove near-duplicates; the order stays the same.

    A text is removed if a kept text begins like it, or if more than half of its n-grams are in longer kept texts: a
    reply that quotes, a mailing sent again under other names, a text that is mostly the footer of a list. This
    keeps texts that were seen in training out of the test split.
    """
    ngrams = [word_ngrams(record.text) for record in records]
    seen: set[tuple[str, ...]] = set()
    openings: set[str] = set()
    kept = []
    # From long to short, so that a text contained in another one is removed, whichever comes first.
    for i in sorted(range(len(records)), key=lambda i: -len(ngrams[i])):
        opening = records[i].text[:OPENING]
        if opening not in openings and 2 * len(ngrams[i] & seen) <= len(ngrams[i]):
            openings.add(opening)
            seen |= ngrams[i]
            kept.append(i)
    return [records[i] for i in sorted(kept)]


def write_splits(records: Sequence[Labelled], folder: Path, seed: int = 0) -> dict[str, Counter[str]]:
    """Split records at random within each class, and write a ``.jsonl`` of ``text`` and ``label`` for each split.

    Args:
        records: records without near-duplicates.
        folder: created if missing; files of the same names are replaced.
        seed: seed of the split. The same records and seed give the same files, byte for byte.

    Returns:
        The number of records of each label in each split.
    """
    number = {label: i for i, label in enumerate(sorted({record.label for record in records}))}
    labels = torch.tensor([number[record.label] for record in records])
    counts = {}
    for name, part in zip(NAMES, divide(labels, FRACTIONS, seed), strict=True):
        lines = [json.dumps(records[i]._asdict(), ensure_ascii=False) for i in part]
        with atomic_write(folder / f"{name}.jsonl") as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[name] = Counter(records[i].label for i in part)
    return counts
