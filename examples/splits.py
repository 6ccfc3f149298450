"""Labelled texts for the examples: near-copies removed, divided into train, validation and test, written as JSONL."""

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
"""Two texts that begin with the same so many characters are near-copies, whatever follows."""
RUN = 8
"""Words in a row that are hardly ever the same by chance."""
FRACTIONS = (0.55, 0.15, 0.3)
"""Of train, validation and test. Few inputs are needed to learn from, many to see a point of accuracy."""


class Labelled(NamedTuple):
    """A text and the name of its class."""

    text: str
    label: str


def runs_of_words(text: str) -> set[tuple[str, ...]]:
    """All runs of :data:`RUN` words, numbers and case aside; a shorter text is one run."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return {tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))}


def without_copies(records: Sequence[Labelled]) -> list[Labelled]:
    """The records without near-copies, in their order.

    A text is left out if another one begins like it, or if more than half of its runs of words are in longer texts that
    stay: an answer that quotes, a mailing sent again under other names, a text that is mostly the footer of a list. So
    what is tested has not been seen in training, whichever part a text is dealt to.
    """
    runs = [runs_of_words(record.text) for record in records]
    seen: set[tuple[str, ...]] = set()
    openings: set[str] = set()
    kept = []
    # From long to short, so that what is contained in another text is left out, wherever it stood.
    for i in sorted(range(len(records)), key=lambda i: -len(runs[i])):
        opening = records[i].text[:OPENING]
        if opening not in openings and 2 * len(runs[i] & seen) <= len(runs[i]):
            openings.add(opening)
            seen |= runs[i]
            kept.append(i)
    return [records[i] for i in sorted(kept)]


def write_splits(records: Sequence[Labelled], folder: Path, seed: int = 0) -> dict[str, Counter[str]]:
    """Deal records out at random within each class, and write a ``.jsonl`` of ``text`` and ``label`` for each part.

    Args:
        records: without near-copies.
        folder: made if it is missing; files of the same names are replaced.
        seed: decides who goes where. The same records and seed give the same files, byte for byte.

    Returns:
        How many of each label are in each part.
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
