"""What a training starts from, and the alternatives that a probe compares. Pure functions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rltr.runtime.decision import Removal

STRENGTHS = {"redundancy": 4.0, "attention": 8.0, "spread": 2.0}
"""The weight at which each feature is tried first."""
SYMMETRIC = ("spread",)
"""Features whose sign means nothing: the tokens with low values are spread as evenly as those with high values."""


@dataclass(frozen=True)
class Start:
    """Decision layers, removal and priors of an untrained policy.

    Attributes:
        layers: the decision layers.
        removal: whether removed tokens are merged or dropped.
        redundancy: weight with which near-duplicates leave first; if negative, they leave last.
        attention: weight with which tokens stay that the pooled token attends to; if negative, they leave first.
        spread: weight with which tokens stay that are spread evenly over the input.
    """

    layers: tuple[int, ...]
    removal: Removal = "merge"
    redundancy: float = 0.0
    attention: float = 0.0
    spread: float = 0.0

    @property
    def priors(self) -> dict[str, float]:
        """Weight of each feature by name."""
        return {"redundancy": self.redundancy, "attention": self.attention, "spread": self.spread}

    def with_prior(self, name: str, weight: float) -> "Start":
        """The same start with another weight of one feature."""
        return replace(self, **{name: weight})  # type: ignore[arg-type] # all features are floats

    def without_priors(self) -> "Start":
        """The same start without any feature."""
        return Start(self.layers, self.removal)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"layers": list(self.layers), "removal": self.removal, **self.priors}

    def __str__(self) -> str:
        """Describe it in one line, for logs and tables."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.priors.items() if weight) or "no prior"
        return f"layers {' '.join(map(str, self.layers))}; {self.removal}; {weights}"


def schedules(depth: int) -> list[tuple[int, ...]]:
    """Sets of decision layers to compare, for a model of ``depth`` layers; none has the last layer.

    They begin at layer 0, 1 or 2, and have every layer, every second or every third, or the first half.
    """
    last, half = max(depth - 1, 1), max(depth // 2, 1)
    ranges = [
        range(first, stop, step)
        for first in (0, 1, 2)
        for stop, step in ((last, 1), (last, 2), (last, 3), (half + first, 1))
    ]
    return list(dict.fromkeys(tuple(layers) for layers in ranges if len(layers) and layers[-1] < last))


def single_features(start: Start) -> Iterator[Start]:
    """The same start with each feature alone, in both directions, and with redundancy and attention together."""
    bare = start.without_priors()
    for name, strength in STRENGTHS.items():
        yield bare.with_prior(name, strength)
        if name not in SYMMETRIC:
            yield bare.with_prior(name, -strength)
    yield replace(bare, redundancy=STRENGTHS["redundancy"], attention=STRENGTHS["attention"])


def other_schedules(start: Start, depth: int) -> Iterator[Start]:
    """The same start with every other set of decision layers."""
    yield from (replace(start, layers=layers) for layers in schedules(depth) if layers != start.layers)


def other_removal(start: Start) -> Iterator[Start]:
    """The same start with the other removal, with its own priors and with attention alone.

    Redundancy says which tokens can be merged; a token that is dropped may be needed although it has a near-duplicate
    that is dropped, too.
    """
    changed = replace(start, removal="drop" if start.removal == "merge" else "merge")
    alone = changed.without_priors().with_prior("attention", STRENGTHS["attention"])
    yield from dict.fromkeys((changed, alone))


def other_strengths(start: Start) -> Iterator[Start]:
    """The same start with the weight of one feature doubled, halved or 0, or of another feature added."""
    for name, strength in STRENGTHS.items():
        weight = start.priors[name]
        for changed in (2 * weight, weight / 2, 0.0) if weight else (strength / 2,):
            yield start.with_prior(name, changed)
