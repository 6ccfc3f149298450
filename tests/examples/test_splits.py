"""Splits of the examples: no copies, and no text in two of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.examples.conftest import example


def labelled(text: str, label: str) -> Any:
    return example("splits").Labelled(text, label)


def text(start: int, words: int) -> str:
    return " ".join("abcdefghij"[int(c)] * 2 for n in range(start, start + words) for c in str(n))


def test_of_similar_texts_only_the_longest_is_kept() -> None:
    quoted, answer, other = text(1000, 30), "So it is. " + text(1000, 40), text(5000, 30)
    records = [labelled(t, "ham") for t in (quoted, answer, other, answer + " PS", other.upper(), "short", "short")]
    kept = [record.text for record in example("splits").without_near_duplicates(records)]
    assert kept == [other, answer + " PS", "short"]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=30).map(" ".join), max_size=12))
def test_no_kept_text_is_mostly_contained_in_another(texts: Sequence[str]) -> None:
    splits = example("splits")
    kept = splits.without_near_duplicates([labelled(text, "x") for text in texts])
    assert bool(kept) == bool(texts)
    ngrams = [splits.word_ngrams(record.text) for record in kept]
    for i, mine in enumerate(ngrams):
        longer = [other for j, other in enumerate(ngrams) if j != i and len(other) > len(mine)]
        assert all(2 * len(mine & other) <= len(mine) for other in longer)
    assert len({record.text for record in kept}) == len(kept)


def test_splits_share_nothing_and_depend_on_the_seed_only(tmp_path: Path) -> None:
    splits = example("splits")
    records = [labelled(f"text {i}", "ham" if i % 4 else "spam") for i in range(80)]
    counts = splits.write_splits(records, tmp_path / "a")
    splits.write_splits(records, tmp_path / "b")
    splits.write_splits(records, tmp_path / "c", seed=1)
    files = {folder: [(tmp_path / folder / f"{name}.jsonl").read_text() for name in splits.NAMES] for folder in "abc"}
    assert files["a"] == files["b"] != files["c"]
    lines = [line for file in files["a"] for line in file.splitlines()]
    assert sorted(json.loads(line)["text"] for line in lines) == sorted(record.text for record in records)
    assert counts["train"] == {"ham": 33, "spam": 11} and counts["test"] == {"ham": 18, "spam": 6}
