"""A tiny, randomly initialised model of every supported family, made from its config, and a ragged batch for it.

A new family is one line here and one in ``rltr/runtime/families.py``; the tests and the list in the documentation
follow. What a config makes of a family that differs in that list, or is read otherwise, has an entry of its own.
"""

from tests.zoo.decoders import DECODERS
from tests.zoo.entry import Entry
from tests.zoo.images import IMAGES
from tests.zoo.inputs import INPUTS, LENGTHS, batch
from tests.zoo.sounds import SOUNDS
from tests.zoo.texts import TEXTS

ZOO: dict[str, Entry] = IMAGES | SOUNDS | TEXTS | DECODERS
"""Every supported family by its name in ``rltr.runtime.families.FAMILIES``, and what of it differs."""

__all__ = ["INPUTS", "LENGTHS", "ZOO", "Entry", "batch"]
