"""Mapping of class names to a head's class indices: any order and form of names, and a warning for every guess."""

import logging
import unicodedata
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import ViTConfig

from rltr.errors import RltrError
from rltr.tasks.goals.numbering import FOLDERS, NAMES, WHOLE_NUMBERS, WRITTEN, Way, by_name, number_classes, numbers_of
from tests.tasks.conftest import SMALL

quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
letters = st.characters(categories=("L", "M", "N", "P", "Zs"), exclude_characters="|")
names = st.lists(
    st.text(letters, min_size=1, max_size=8).filter(str.strip),
    min_size=2,
    max_size=9,
    unique_by=lambda own: own.casefold(),
)


def config(own: Sequence[str] | int, **more: Any) -> ViTConfig:
    own = [f"LABEL_{i}" for i in range(own)] if isinstance(own, int) else list(own)
    tables = {"id2label": dict(enumerate(own)), "label2id": {name: i for i, name in enumerate(own)}}
    return ViTConfig(**SMALL, **{**tables, **more})


@given(names, st.randoms())
def test_names_of_the_head_are_found_in_any_order(own: list[str], random: Any) -> None:
    found = random.sample(own, len(own))
    for ways in (WRITTEN, FOLDERS, NAMES):
        assert number_classes(found, config(own), ways)[0] == {name: own.index(name) for name in own}


@given(names, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]))
def test_names_are_the_same_in_every_unicode_form(own: list[str], theirs: Any, ours: Any) -> None:
    own = [unicodedata.normalize(theirs, name) for name in own]
    assume(len({unicodedata.normalize("NFC", name) for name in own}) == len(own))
    written = [unicodedata.normalize(ours, name) for name in own]
    assert number_classes(written, config(own))[0] == {name: i for i, name in enumerate(written)}


@pytest.mark.parametrize(("one", "other"), [("कि", "कु"), ("cafe", "café"), ("が", "か")])
def test_combining_marks_are_not_ignored_as_punctuation(one: str, other: str) -> None:
    for form in ("NFC", "NFD"):
        with pytest.raises(RltrError, match="do not fit"):
            number_classes([unicodedata.normalize(form, one), "x"], config([other, "x"]))


@given(names)
def test_only_guesses_are_warned_about(own: list[str]) -> None:
    """Without a warning, the names are the head's own, or the labels its class indices."""
    for head in (config(own), config(len(own))):
        for ways in (WRITTEN, FOLDERS, WHOLE_NUMBERS):
            said = _said(own, head, ways)
            known = list((head.id2label or {}).values())
            if set(own) <= set(known):
                assert not said
            elif not said:
                assert number_classes(own, head, ways)[0] == {name: int(name) for name in own}
            else:
                assert "numbered" in said and known == [f"LABEL_{i}" for i in range(len(own))]


def _said(found: Sequence[str], head: ViTConfig, ways: Sequence[Way]) -> str:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("rltr").addHandler(handler)
    try:
        number_classes(found, head, ways)
    finally:
        logging.getLogger("rltr").removeHandler(handler)
    return " ".join(heard)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("count", [3, 12])
def test_folders_of_numerals(first: int, count: int) -> None:
    """Numbered as by torchvision's ImageFolder and datasets' imagefolder, unless they can be class indices."""
    found = [str(first + i) for i in range(count)]
    number, classes = number_classes(found, config(count), FOLDERS)
    expected = {name: i for i, name in enumerate(sorted(found))} if first else {name: int(name) for name in found}
    assert number == expected and (not first or classes == sorted(found))
    said = _said(found, config(count), FOLDERS)
    assert ("in alphabetical order" in said) == (first == 1 or count > 10)


def test_numbers_that_count_from_one() -> None:
    assert number_classes(["1", "2", "10"], config(3))[0] == {"1": 0, "2": 1, "10": 2}
    assert "by size: 0 = 1, 1 = 2, 2 = 10" in _said(["1", "2", "10"], config(3), WRITTEN)
    assert number_classes(["2.0", "10.0", "1.0"], config(3))[0] == {"1.0": 0, "2.0": 1, "10.0": 2}
    with pytest.raises(RltrError, match=r"seem to count from 1.*subtract 1 from each \(3 becomes 2\)"):
        number_classes(["1", "2", "3"], config(["a", "b", "c"]))
    said = _said(["1", "2"], config(["a", "b", "c"]), WHOLE_NUMBERS)
    assert "no example has class 0" in said and "subtract 1" in said
    assert not _said(["0", "2"], config(["a", "b", "c"]), WHOLE_NUMBERS)


@pytest.mark.parametrize("name", ["1_000", "٣", "\uff11", "+1", "no", "on", "1e0", "0x1", "true"])
def test_what_only_looks_like_a_number_is_a_name(name: str) -> None:
    with pytest.raises(RltrError, match="do not fit"):
        number_classes(["0", name], config([str(i) for i in range(9)][1:] + ["x"]))
    number, classes = number_classes([name, "yes"], config(["yes", name]))
    assert number == {name: 1, "yes": 0} and classes == ["yes", name]


def test_numbers_as_class_names_and_as_class_indices() -> None:
    """Of a head that was trained on folders 0 to 11, class 2 is called 10."""
    own = sorted(str(i) for i in range(12))
    assert number_classes(own, config(own), WRITTEN)[0] == {name: i for i, name in enumerate(own)}
    assert "are read as names" in _said(own, config(own), WRITTEN)
    assert number_classes(own, config(own), WHOLE_NUMBERS)[0] == {name: int(name) for name in own}
    plain = [str(i) for i in range(12)]
    assert not _said(plain, config(plain), WRITTEN)


def test_numbers_of_named_classes() -> None:
    world = ["World", "Sports", "Business", "Tech"]
    numbers = ["0", "1", "2", "3"]
    number, classes = number_classes(numbers, config(4), numbers_of(world))
    assert number == {str(i): i for i in range(4)} and classes == world
    with pytest.raises(RltrError, match="'Sports' has index 1 in the data and 0 in the model"):
        number_classes(numbers, config(["sports", "news", "business", "tech"]), numbers_of(world))


def test_contradicting_id2label_and_label2id_give_a_warning() -> None:
    head = config(["neg", "pos"], label2id={"neg": 1, "pos": 0})
    assert "contradicts itself: id2label calls class 0 'neg'" in _said(["neg", "pos"], head, WRITTEN)


def test_the_error_mentions_names_that_differ_only_in_unicode_form() -> None:
    with pytest.raises(RltrError, match="differ only in case or Unicode form"):
        number_classes(["caf\u00e9", "cafe\u0301"], config(["café", "bar"]))


@pytest.mark.parametrize(
    ("found", "own"),
    [
        (["C#", "Java"], ["C++", "Java"]),
        (["-1", "0"], ["0", "1"]),
        (["<50K", "x"], [">50K", "x"]),
        (["5%", "x"], ["5$", "x"]),
    ],
)
def test_signs_and_symbols_are_not_ignored_as_punctuation(found: list[str], own: list[str]) -> None:
    assert (
        by_name(found, ViTConfig(id2label=dict(enumerate(own)), label2id={name: i for i, name in enumerate(own)}))
        is None
    )
