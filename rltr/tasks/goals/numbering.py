"""From the class names people write to the numbers a model's head uses.

There are four ways, and where data come from decides which are tried, and in which order. Whatever is a guess is said.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from transformers import PreTrainedConfig

from rltr.errors import RltrError

GENERIC = re.compile(r"LABEL_\d+")
"""What transformers calls a class that nobody named."""
NUMERAL = re.compile(r"[0-9]+")
"""A class's number; Python's ``isdecimal`` and ``int`` would take other scripts' digits and ``1_000``, too."""
SIZE = re.compile(r"-?[0-9]+(\.[0-9]+)?")
"""What is sorted by size where it is no class's number."""
LISTED = 12
"""Classes that a message lists."""
log = logging.getLogger(__name__)


class Numbering(NamedTuple):
    """The head's number of every class name in the data, the names of its classes, and what is a guess about that."""

    number: dict[str, int]
    classes: list[str]
    guess: str = ""


Way: TypeAlias = Callable[[Sequence[str], PreTrainedConfig], Numbering | None]
"""Numbers the names in the data for a head; None if they do not fit it in this way."""

SEPARATORS = str.maketrans(dict.fromkeys("-_/\\.,:;'\"()[]{}|\u2010\u2011\u2012\u2013\u2014", " "))
"""What folders and tables write between words in different ways."""
SIGNED = re.compile(r"[-\u2212]\s*\d")
"""How a negative number begins."""


def by_name(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """Names that the head knows: as they are, in another Unicode form, in another case, with other punctuation."""
    own = class_names(config)
    for form in (str, _composed, _folded, _plain):
        known = {form(name): number for number, name in enumerate(own)}
        distinct = len(known) == len(own) and len({form(name) for name in found}) == len(found)
        if distinct and all(form(name) in known for name in found):
            guess = _two_meanings(found, own) or _two_tables(config, own)
            return Numbering({name: known[form(name)] for name in found}, own, guess)
    return None


def by_number(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """Whole numbers that are class numbers of the head; some may be missing."""
    numbers, count = _numerals(found), config.num_labels or 0
    if numbers is None or max(numbers.values()) >= count:
        return None
    guess = ""
    if 0 not in numbers.values():
        guess = (
            f"no example has class 0: the labels {_listed(found)} are taken for the model's own numbers, 0 to "
            f"{count - 1}; if they count from 1, subtract 1"
        )
    return Numbering(numbers, class_names(config), guess)


def numbers_of(names: Sequence[str]) -> tuple[Way, ...]:
    """How classes are numbered that the data call ``names``, in the order of their numbers, and the head does not.

    Raises:
        RltrError: by the way itself, if the head knows one of the names under another number.
    """

    def way(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
        known = {_folded(name): number for number, name in enumerate(class_names(config))}
        for number, name in enumerate(names):
            theirs = known.get(_folded(name), number)
            if theirs != number and NUMERAL.fullmatch(name) is None:
                raise RltrError(
                    f"class {name!r} is number {number} in the data and number {theirs} in the model, and not all "
                    "names fit each other: call all classes of the data as the model does"
                )
        numbering = by_number(found, config)
        if numbering is None:
            return None
        nameless = len(names) == config.num_labels and _is_generic(numbering.classes)
        return Numbering(numbering.number, list(names) if nameless else numbering.classes)

    return (way,)


def folders_by_number(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """The same for folders, which torchvision and ``datasets`` number in the order of text, whatever they are called.

    Where a head has no names, either may be meant; where the two differ, that is said.
    """
    numbering = by_number(found, config)
    ordered = folders_by_text(found, config)
    if numbering is None or ordered is None or numbering.number == ordered.number or numbering.guess:
        return numbering
    guess = (
        f"the folders' names ({_listed(found)}) are taken for the model's class numbers; a model that was trained on "
        "such folders by torchvision or datasets counts them in the order of text (0, 1, 10, …, 2): if this one was, "
        f"{NAME_THEM}"
    )
    return numbering._replace(guess=guess)


def folders_by_text(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """A head without names has as many classes as there are: in the order of text, as torchvision and ``datasets``."""
    return _in_order(sorted(found), config, "in the order of text, as torchvision and datasets number folders")


def by_order(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """A head without names has as many classes as there are: numbers by size, all else in the order of text."""
    if all(SIZE.fullmatch(name) for name in found):
        return _in_order(sorted(found, key=float), config, "by size")
    return _in_order(sorted(found), config, "in the order of text")


WRITTEN: tuple[Way, ...] = (by_name, by_number, by_order)
"""How labels in a text file are numbered: what looks like a number may be a name."""
WHOLE_NUMBERS: tuple[Way, ...] = (by_number, by_name, by_order)
"""How labels are numbered that are stored as numbers."""
FOLDERS: tuple[Way, ...] = (by_name, folders_by_number, folders_by_text)
"""How folders are numbered, one per class."""
NAMES: tuple[Way, ...] = (by_name,)
"""How classes are numbered that have a name and a number: by their names, and else by :func:`numbers_of` these."""
NAME_THEM = (
    "say what the model's classes are called (model.config.id2label and label2id), and save it; the data may then be "
    "in any order"
)


def number_classes(
    names: Iterable[str], config: PreTrainedConfig, ways: Sequence[Way] = WRITTEN
) -> tuple[dict[str, int], list[str]]:
    """Find the head's number for every class name in the data; a warning says so if that is a guess.

    Args:
        names: as they are written; repeats allowed.
        config: of the model.
        ways: tried in this order.

    Returns:
        The label of each name, and the name of every class of the head, by label.

    Raises:
        RltrError: if the head is no single-label classifier, or the names fit in none of these ways.
    """
    found = sorted(set(names))
    count = config.num_labels or 0
    if count < 2 or config.problem_type not in (None, "single_label_classification"):
        raise RltrError(
            f"the model's head has {count} output(s) and problem type {config.problem_type!r}; "
            "rltr scores single-label classifiers with two or more classes"
        )
    if not found:
        return {}, class_names(config)
    for way in ways:
        numbering = way(found, config)
        if numbering is not None:
            if numbering.guess:
                log.warning("%s", numbering.guess)
            return numbering.number, numbering.classes
    own = class_names(config)
    raise RltrError(
        f"the data's {len(found)} classes ({_listed(found)}) do not fit the model's {count} ({_listed(own)}); "
        "name them as the model does, or by its label numbers, or give the model as many classes as the data has"
        f"{_likely(found, count)}"
    )


def class_names(config: PreTrainedConfig) -> list[str]:
    """The names of a head's classes, by label."""
    given: dict[Any, str] = dict(config.id2label or {})
    return [str(given.get(i, f"LABEL_{i}")) for i in range(config.num_labels or 0)]


def _in_order(ordered: list[str], config: PreTrainedConfig, order: str) -> Numbering | None:
    if len(ordered) != config.num_labels or not _is_generic(class_names(config)):
        return None
    shown = _listed([f"{place} = {name}" for place, name in enumerate(ordered)])
    guess = f"the model's classes have no names; the data's are numbered {order}: {shown}; to be sure, {NAME_THEM}"
    return Numbering({name: place for place, name in enumerate(ordered)}, ordered, guess)


def _numerals(found: Sequence[str]) -> dict[str, int] | None:
    """The number that each name is, if all are, and no two are the same."""
    numbers = {name: int(name) for name in found if NUMERAL.fullmatch(name)}
    return numbers if len(numbers) == len(set(numbers.values())) == len(found) else None


def _two_meanings(found: Sequence[str], own: Sequence[str]) -> str:
    """What to say where a head's names are numerals, and the data's may be meant as its numbers."""
    numbers, known = _numerals(found), {name: number for number, name in enumerate(own)}
    if numbers is None or max(numbers.values()) >= len(own):
        return ""
    different = [name for name in found if name in known and known[name] != numbers[name]]
    if not different:
        return ""
    name = different[0]
    return (
        f"the labels {_listed(found)} are taken for the names of the model's classes, of which {name!r} is number "
        f"{known[name]}; if they are numbers, write the names in their place"
    )


def _two_tables(config: PreTrainedConfig, own: Sequence[str]) -> str:
    """What to say where a head's two tables contradict each other."""
    back: Mapping[str, Any] = config.label2id or {}
    for number, name in enumerate(own):
        if str(back.get(name, number)) != str(number):
            return (
                f"the model's config contradicts itself: id2label calls class {number} {name!r}, and label2id says "
                f"that {name!r} is class {back[name]}; id2label is taken, mend config.json if that is wrong"
            )
    return ""


def _likely(found: Sequence[str], count: int) -> str:
    numbers = _numerals(found)
    if "-1" in found:
        return "; -1 marks a label that is not given: name another split, e.g. data.test_split=validation"
    if numbers is not None and 0 not in numbers.values() and max(numbers.values()) == count:
        return f"; they seem to count from 1, and the model from 0: subtract 1 from each ({count} becomes {count - 1})"
    if any(SIZE.fullmatch(name) for name in found) and numbers is None:
        return "; the numbers of classes are whole, as in 1, and not 1.0"
    if len({_folded(name) for name in found}) < len(found):
        return "; some names differ in nothing but case or Unicode form"
    return ""


def _is_generic(own: Sequence[str]) -> bool:
    return all(GENERIC.fullmatch(name) for name in own)


def _composed(name: str) -> str:
    """In Unicode's composed form: macOS writes file names decomposed."""
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _plain(name: str) -> str:
    """Lower case, separators as one space: "T-shirt/top" cannot be a folder's name, but "t_shirt_top" can.

    Signs and symbols count: C++ is not C#, -1 is not 1, and <50K is not >50K.
    """
    folded = _folded(name)
    if SIGNED.match(folded):
        return folded
    return " ".join(folded.translate(SEPARATORS).split()) or name


def _listed(names: Sequence[str], most: int = LISTED) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
