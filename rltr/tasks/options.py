"""What a person may say about their data."""

import math
from dataclasses import dataclass

from rltr.errors import RltrError
from rltr.tasks.goals.embedding import Pooling


@dataclass(frozen=True)
class DataOptions:
    """How to read a data set. Every field has a default that fits the usual layout.

    Args:
        fractions: shares of train, validation and test, used only where the data is not split yet; sum 1.
        seed: decides who goes where then; any whole number from 0.
        text_column: column of a CSV, or key of a JSONL, that holds the text.
        label_column: column or key that holds the label, as the class's name or number.
        template: the text that describes a class in zero-shot tasks, with ``{}`` for its name.
        pooling: what an embedding is made of: ``mean`` of the tokens that are left, or ``cls``, the first one.

    Raises:
        RltrError: if the fractions are not three positive numbers that sum to 1, the seed is negative, or the
            template has no place for a name.
    """

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    text_column: str = "text"
    label_column: str = "label"
    pooling: Pooling = "mean"
    template: str = "a photo of a {}."

    def __post_init__(self) -> None:
        good = len(self.fractions) == 3 and all(part > 0 for part in self.fractions)
        if not good or not math.isclose(sum(self.fractions), 1.0, abs_tol=1e-6):
            raise RltrError(
                f"fractions must be three positive numbers for train, validation and test that sum to 1, "
                f"like 0.8, 0.1, 0.1; got {', '.join(map(str, self.fractions))}"
            )
        if "{}" not in self.template:
            raise RltrError(f"the template {self.template!r} has no {{}} for the name of the class")
        if self.seed < 0:
            raise RltrError(f"the seed of a split must be 0 or more, not {self.seed}")
