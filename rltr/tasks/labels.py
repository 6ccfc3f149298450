"""From the class names people write to the numbers a model's head uses."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from transformers import PreTrainedConfig

from rltr.errors import RltrError

GENERIC = re.compile(r"LABEL_\d+")
"""What transformers calls a class that nobody named."""


def _plain(name: str) -> str:
    """Lower case, any punctuation as one space: "T-shirt/top" cannot be a folder's name, but "t_shirt_top" can."""
    return re.sub(r"[\W_]+", " ", name.casefold()).strip() or name


def number_classes(names: Iterable[str], config: PreTrainedConfig) -> tuple[dict[str, int], list[str]]:
    """Find the head's number for every class name in the data.

    In this order: names that the head knows, ignoring case and then also punctuation; whole numbers that are labels
    of the head; and, for a head that never got names (``LABEL_0`` …), sorted order, if there are as many names as
    classes. The data may lack classes in the first two cases.

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
    own = class_names(config)
    by_name: Callable[[str], str]
    for by_name in (str, str.casefold, _plain):
        known = {by_name(name): number for number, name in enumerate(own)}
        distinct = len(known) == count and len({by_name(name) for name in found}) == len(found)
        if distinct and all(by_name(name) in known for name in found):
            return {name: known[by_name(name)] for name in found}, own
    numeric = all(name.isdecimal() for name in found)
    if numeric and len({int(name) for name in found}) == len(found) and all(int(name) < count for name in found):
        return {name: int(name) for name in found}, own
    if len(found) == count and all(GENERIC.fullmatch(name) for name in own):
        ordered = sorted(found, key=int) if numeric else found
        return {name: number for number, name in enumerate(ordered)}, ordered
    hidden = "; -1 marks a label that is not given: name another split, e.g. data.test_split=validation"
    raise RltrError(
        f"the data's {len(found)} classes ({_listed(found)}) do not fit the model's {count} ({_listed(own)}); "
        "name them as the model does, or by its label numbers, or give the model as many classes as the data has"
        f"{hidden if '-1' in found else ''}"
    )


def class_names(config: PreTrainedConfig) -> list[str]:
    """The names of a head's classes, by label."""
    given: dict[Any, str] = dict(config.id2label or {})
    return [str(given.get(i, f"LABEL_{i}")) for i in range(config.num_labels or 0)]


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
