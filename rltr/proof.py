"""Does a model answer exactly, with fewer tokens, as it should? The proof that every supported family passes.

Compared is what the last layer gives, so any head will do: with the native model's, and with that of
:mod:`rltr.reference`, in which no token ever leaves.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rltr import tokens as ragged
from rltr.backbone import Backbone
from rltr.errors import RltrError
from rltr.forward import Choice, Decide, Decision, Dropped, Trace
from rltr.reference import Departures, on_the_whole_grid
from rltr.rounding import apart, as_its_own, in_single_precision, tolerance


@dataclass(frozen=True)
class Proof:
    """How far the reduced model is from what it should answer: largest differences of hidden states after all layers.

    What a model in half precision should answer is what the same weights do in single precision.

    Attributes:
        kept: with everything kept, to the native model.
        dropped: with tokens dropped at random, of those that stay, to the reference.
        merged: the same with tokens merged; who takes whom in is read off the run, as rounding decides between equals.
        alone: of one row with tokens dropped, to the same row without its batch mates.
        tolerance: how large differences may be: rounding, see :func:`rltr.rounding.tolerance`.
        restored: whether the model answers bit for bit as before once it is detached.
    """

    kept: float
    dropped: float
    merged: float
    alone: float
    tolerance: float
    restored: bool

    @property
    def holds(self) -> bool:
        """Whether the model may be run reduced."""
        # An error of nan does not hold, and where the native model overflows nothing does.
        errors = (self.kept, self.dropped, self.merged, self.alone)
        return self.restored and all(error <= self.tolerance < math.inf for error in errors)


@torch.no_grad()
def prove(backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], seed: int = 0) -> Proof:
    """Run ``inputs`` natively, reduced, as the reference, one row alone, and natively again.

    A model in half precision is copied to single precision for the native pass and the reference, which takes twice its
    memory on top.

    Args:
        backbone: the model.
        inputs: at least two rows, ragged where the model allows it.
        layers: decision layers, rising.
        seed: decides who leaves: half of the tokens at each decision.

    Raises:
        RltrError: if there are fewer rows.
    """
    if (rows := min(map(len, inputs.values()), default=0)) < 2:
        raise RltrError(
            f"inputs of {rows} row{'' if rows == 1 else 's'} prove nothing of how rows in a batch affect each other: "
            "give at least two rows"
        )
    exact = in_single_precision(backbone)
    wide = as_its_own(exact, inputs)
    native = last_states(backbone, inputs)
    expected = native if exact is backbone else last_states(exact, wide)
    everyone, trace = _reduced(backbone, inputs, layers, _keep_all)
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(len(layers), *trace.stages[0].present.shape, generator=generator).to(backbone.device) < 0.5
    dropped, left = _reduced(backbone, inputs, layers, _replay(masks))
    with on_the_whole_grid(exact, Departures(left.present, left.layers)):
        hidden = last_states(exact, wide)
    merge = _Merge(masks)
    merged, averaged = _reduced(backbone, inputs, layers, merge, "merge")
    with on_the_whole_grid(exact, Departures(averaged.present, averaged.layers, torch.stack(merge.into))):
        average = last_states(exact, wide)
    other = {name: value[1:2] for name, value in inputs.items()}
    alone, _ = _reduced(backbone, other, layers, _replay(masks[:, 1:2]))
    there, stayed, took = (each.stages[-1].present for each in (trace, left, averaged))
    return Proof(
        kept=apart(everyone[there], expected[there]),
        dropped=apart(dropped[stayed], hidden[stayed]),
        merged=apart(merged[took], average[took]),
        alone=apart(alone[stayed[1:2]], dropped[1:2][stayed[1:2]]),
        tolerance=tolerance(native[there], expected[there], backbone.dtype),
        restored=torch.equal(last_states(backbone, inputs), native),
    )


def last_states(backbone: Backbone, inputs: Mapping[str, Tensor]) -> Float[Tensor, "rows grid width"]:
    """What the last layer gives in a forward pass of the model."""
    with _caught(backbone) as caught:
        backbone.model(**{**inputs, "use_cache": False} if backbone.family.cached else inputs)
    return caught[-1]


def _keep_all(decision: Decision) -> Choice:
    return Choice(torch.ones_like(decision.protected))


def _replay(masks: Bool[Tensor, "decisions rows grid"]) -> Decide:
    return lambda decision: Choice(masks[decision.index][decision.tokens.row, decision.tokens.position])


class _Merge:
    """Keeps what masks say, and whoever is like nobody that may take it in; notes who is merged into whom."""

    def __init__(self, masks: Bool[Tensor, "decisions rows grid"]) -> None:
        self.keep = _replay(masks)
        self.into: list[Int[Tensor, "rows grid"]] = []

    def __call__(self, decision: Decision) -> Choice:
        tokens = decision.tokens
        kept = self.keep(decision).keep | decision.protected
        into, found = decision.redundancy.partners(kept)
        leave = ragged.where(~kept)
        kept[leave[~found]] = True
        leave, into = leave[found], into[found]
        places = torch.arange(tokens.grid, device=into.device).repeat(len(tokens.counts), 1)
        places[tokens.row[leave], tokens.position[leave]] = tokens.position[into]
        self.into.append(places)
        return Choice(kept, into)


def _reduced(
    backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], decide: Decide, dropped: Dropped = "drop"
) -> tuple[Tensor, Trace]:
    with backbone.attached(), _caught(backbone) as caught:
        _, trace = backbone.run(backbone.forward(decide, layers, dropped), inputs)
    return caught[-1], trace


@contextmanager
def _caught(backbone: Backbone) -> Iterator[list[Tensor]]:
    """What the last layer gives, with every token in its place; where it runs several times, the last counts."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    handle = backbone.layers[-1].register_forward_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()
