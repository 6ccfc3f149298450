"""A tiny, randomly initialised model of every supported family, made from its config, and a ragged batch for it.

A new family is one line here and one in ``rltr/runtime/families.py``; the tests and the list in the documentation
follow. A config that changes what is tested or listed for its family has its own entry.
"""

from tests.zoo.decoders import DECODERS
from tests.zoo.entry import Entry
from tests.zoo.images import IMAGES
from tests.zoo.inputs import INPUTS, LENGTHS, batch
from tests.zoo.sounds import SOUNDS
from tests.zoo.texts import TEXTS

ZOO: dict[str, Entry] = IMAGES | SOUNDS | TEXTS | DECODERS
"""Entries by the name of their family in ``rltr.runtime.families.FAMILIES``, with what differs from it."""

__all__ = ["INPUTS", "LENGTHS", "ZOO", "Entry", "batch"]
