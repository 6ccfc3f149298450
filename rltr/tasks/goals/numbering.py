"""Map the class names of a data set to the class indices of a model's head.

There are several ways to do so: by name, by number, or by sort order. The source of the data decides which of them are
tried, and in which order. A mapping that is a guess is logged as a warning.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from transformers import PreTrainedConfig

from rltr.errors import RltrError

GENERIC = re.compile(r"LABEL_\d+")
"""The names that transformers gives to classes without a name."""
NUMERAL = re.compile(r"[0-9]+")
"""A class index; Python's ``isdecimal`` and ``int`` would also accept other scripts' digits and ``1_000``."""
SIZE = re.compile(r"-?[0-9]+(\.[0-9]+)?")
"""Numbers, which are sorted by size if they are not class indices."""
LISTED = 12
"""Largest number of classes that a message lists."""
log = logging.getLogger(__name__)


class Numbering(NamedTuple):
    """A mapping from class names to class indices.

    Args:
        number: the head's class index of every class name in the data.
        classes: the names of the head's classes, by index.
        guess: what is uncertain about the mapping, as a warning; empty if nothing is.
    """

    number: dict[str, int]
    classes: list[str]
    guess: str = ""


Way: TypeAlias = Callable[[Sequence[str], PreTrainedConfig], Numbering | None]
"""Maps the class names in the data to a head's class indices; returns None if it does not apply."""

SEPARATORS = str.maketrans(dict.fromkeys("-_/\\.,:;'\"()[]{}|\u2010\u2011\u2012\u2013\u2014", " "))
"""Characters between words that differ between folders and tables; they all count as a space."""
SIGNED = re.compile(r"[-\u2212]\s*\d")
"""The beginning of a negative number."""


def by_name(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """Match the head's class names: exactly, or ignoring Unicode form, then case, then punctuation."""
    own = class_names(config)
    for form in (str, _composed, _folded, _plain):
        known = {form(name): number for number, name in enumerate(own)}
        distinct = len(known) == len(own) and len({form(name) for name in found}) == len(found)
        if distinct and all(form(name) in known for name in found):
            guess = _two_meanings(found, own) or _two_tables(config, own)
            return Numbering({name: known[form(name)] for name in found}, own, guess)
    return None


def by_number(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """Read names that are whole numbers as class indices of the head; some classes may be missing."""
    numbers, count = _numerals(found), config.num_labels or 0
    if numbers is None or max(numbers.values()) >= count:
        return None
    guess = ""
    if 0 not in numbers.values():
        guess = (
            f"no example has class 0: the labels {_listed(found)} are read as the model's class indices, 0 to "
            f"{count - 1}; if they count from 1, subtract 1"
        )
    return Numbering(numbers, class_names(config), guess)


def numbers_of(names: Sequence[str]) -> tuple[Way, ...]:
    """Numbering of a ``ClassLabel`` column whose names are not the head's: by the column's own class indices.

    Args:
        names: the names of the column's classes, by index.

    Raises:
        RltrError: from the returned function, if the head has one of the names at another index.
    """

    def way(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
        known = {_folded(name): number for number, name in enumerate(class_names(config))}
        for number, name in enumerate(names):
            theirs = known.get(_folded(name), number)
            if theirs != number and NUMERAL.fullmatch(name) is None:
                raise RltrError(
                    f"class {name!r} has index {number} in the data and {theirs} in the model, and the other names do "
                    "not all match: give all classes of the data the model's names"
                )
        numbering = by_number(found, config)
        if numbering is None:
            return None
        nameless = len(names) == config.num_labels and _is_generic(numbering.classes)
        return Numbering(numbering.number, list(names) if nameless else numbering.classes)

    return (way,)


def folders_by_number(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """Read folder names that are whole numbers as class indices; warn if the alphabetical order would differ.

    torchvision and ``datasets`` number class folders alphabetically, even if their names are numbers. If the head has
    no class names, either may be meant.
    """
    numbering = by_number(found, config)
    ordered = folders_by_text(found, config)
    if numbering is None or ordered is None or numbering.number == ordered.number or numbering.guess:
        return numbering
    guess = (
        f"the folders' names ({_listed(found)}) are read as the model's class indices; torchvision and datasets number "
        "such folders in alphabetical order (0, 1, 10, …, 2): if the model was trained with one of them, "
        f"{NAME_THEM}"
    )
    return numbering._replace(guess=guess)


def folders_by_text(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """Number folders alphabetically, as torchvision and ``datasets`` do.

    Applies only if the head has no class names, and as many classes as there are folders.
    """
    return _in_order(sorted(found), config, "in alphabetical order, as torchvision and datasets number folders")


def by_order(found: Sequence[str], config: PreTrainedConfig) -> Numbering | None:
    """Number names by size if all are numbers, else alphabetically.

    Applies only if the head has no class names, and as many classes as there are names.
    """
    if all(SIZE.fullmatch(name) for name in found):
        return _in_order(sorted(found, key=float), config, "by size")
    return _in_order(sorted(found), config, "in alphabetical order")


WRITTEN: tuple[Way, ...] = (by_name, by_number, by_order)
"""Numberings of labels in a text file, in which a number may also be the name of a class."""
WHOLE_NUMBERS: tuple[Way, ...] = (by_number, by_name, by_order)
"""Numberings of labels that are stored as numbers."""
FOLDERS: tuple[Way, ...] = (by_name, folders_by_number, folders_by_text)
"""Numberings of folders, one per class."""
NAMES: tuple[Way, ...] = (by_name,)
"""Numbering of classes that have a name and an index: by name; :func:`numbers_of` is tried afterwards."""
NAME_THEM = (
    "set the names of the model's classes (model.config.id2label and label2id), and save it; classes are then matched "
    "by name"
)


def number_classes(
    names: Iterable[str], config: PreTrainedConfig, ways: Sequence[Way] = WRITTEN
) -> tuple[dict[str, int], list[str]]:
    """Find the head's class index for every class name in the data; warn if it is a guess.

    Args:
        names: the class names in the data; repeats allowed.
        config: the model's config.
        ways: the numberings to try, in this order.

    Returns:
        The class index of each name, and the names of all classes of the head, by index.

    Raises:
        RltrError: if the head is not a single-label classifier, or none of the numberings fits.
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
        "use the model's names or class indices in the data, or a model with as many classes as the data has"
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
    """The names as whole numbers, if all of them are and no two are equal; else None."""
    numbers = {name: int(name) for name in found if NUMERAL.fullmatch(name)}
    return numbers if len(numbers) == len(set(numbers.values())) == len(found) else None


def _two_meanings(found: Sequence[str], own: Sequence[str]) -> str:
    """Warning for a head whose class names are numbers, if the data may mean class indices instead; else empty."""
    numbers, known = _numerals(found), {name: number for number, name in enumerate(own)}
    if numbers is None or max(numbers.values()) >= len(own):
        return ""
    different = [name for name in found if name in known and known[name] != numbers[name]]
    if not different:
        return ""
    name = different[0]
    return (
        f"the labels {_listed(found)} are read as names of the model's classes; the class named {name!r} has index "
        f"{known[name]}. If the labels are indices, replace them by the names"
    )


def _two_tables(config: PreTrainedConfig, own: Sequence[str]) -> str:
    """Warning for a config whose ``id2label`` and ``label2id`` contradict each other; else empty."""
    back: Mapping[str, Any] = config.label2id or {}
    for number, name in enumerate(own):
        if str(back.get(name, number)) != str(number):
            return (
                f"the model's config contradicts itself: id2label calls class {number} {name!r}, and label2id says "
                f"that {name!r} is class {back[name]}; id2label is used, correct config.json if that is wrong"
            )
    return ""


def _likely(found: Sequence[str], count: int) -> str:
    numbers = _numerals(found)
    if "-1" in found:
        return "; -1 marks examples without a label: name another split, e.g. data.test_split=validation"
    if numbers is not None and 0 not in numbers.values() and max(numbers.values()) == count:
        return f"; they seem to count from 1, but the model from 0: subtract 1 from each ({count} becomes {count - 1})"
    if any(SIZE.fullmatch(name) for name in found) and numbers is None:
        return "; class indices must be whole numbers: 1, not 1.0"
    if len({_folded(name) for name in found}) < len(found):
        return "; some names differ only in case or Unicode form"
    return ""


def _is_generic(own: Sequence[str]) -> bool:
    return all(GENERIC.fullmatch(name) for name in own)


def _composed(name: str) -> str:
    """The name in Unicode's composed form (NFC), because macOS decomposes file names."""
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _plain(name: str) -> str:
    """Lower case, with separators as one space: a folder cannot be named "T-shirt/top", but "t_shirt_top".

    Signs and symbols are kept: C++ is not C#, -1 is not 1, and <50K is not >50K.
    """
    folded = _folded(name)
    if SIGNED.match(folded):
        return folded
    return " ".join(folded.translate(SEPARATORS).split()) or name


def _listed(names: Sequence[str], most: int = LISTED) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
