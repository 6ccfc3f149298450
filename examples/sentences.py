"""Movie sentences with a human rating, as two classes (Hutto and Gilbert 2014, VADER)."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from examples.splits import Labelled

INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
UNDECIDED = 0.5
"""Sentences with a mean rating (-4 to 4) at most this far from 0 are left out."""


def read_sentences(archive: Path) -> Iterator[Labelled]:
    """Yield the positive and negative movie sentences in the source archive of vaderSentiment."""
    with tarfile.open(archive) as outer, tarfile.open(fileobj=io.BytesIO(_content(outer, INNER))) as inner:
        lines = _content(inner, FILE).decode("utf-8-sig").splitlines()
    for line in lines:
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) > UNDECIDED:
            yield Labelled(" ".join(text.split()), "positive" if float(rating) > 0 else "negative")


def _content(files: tarfile.TarFile, name: str) -> bytes:
    stream = files.extractfile(name)
    assert stream is not None, f"{name} is not a file"  # the archive's hash was checked
    return stream.read()
