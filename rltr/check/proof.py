"""Does a model answer exactly, with fewer tokens, as it should? The proof that every supported family passes.

Compared is what the last layer gives, so any head will do: with the native model's, and with that of
:mod:`rltr.check.reference`, in which no token ever leaves.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rltr.check.reference import Departures, on_the_whole_grid
from rltr.check.rounding import apart, as_its_own, in_single_precision, tolerance
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decide, Decision, Removal, Trace
from rltr.runtime.families import GRID
from rltr.system.error_context import error_context


@dataclass(frozen=True)
class Proof:
    """How far the reduced model is from what it should answer: largest differences of hidden states after all layers.

    What a model in half precision should answer is what the same weights do in single precision.

    Attributes:
        kept: with everything kept, to the native model.
        dropped: with tokens dropped at random, of those that stay, to the reference.
        merged: the same with tokens merged; who takes whom in is read off the run, as rounding decides between equals.
        alone: of one row with tokens dropped, to the same row without its batch mates.
        tolerance: how large differences may be: rounding, see :func:`rltr.check.rounding.tolerance`.
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
    """Run ``inputs`` natively, reduced, one row alone, natively again, and as the reference.

    Of a model in half precision, the last two run on a copy in single precision, too: twice its memory on top.

    Args:
        backbone: the model.
        inputs: at least two rows, ragged where the model allows it.
        layers: decision layers, rising.
        seed: decides who leaves: half of the tokens at each decision.

    Raises:
        RltrError: if there are fewer rows, or a pass ends in an error, which is what then speaks against the model.
    """
    if (rows := min(map(len, inputs.values()), default=0)) < 2:
        raise RltrError(
            f"inputs of {rows} row{'' if rows == 1 else 's'} prove nothing of how rows in a batch affect each other: "
            "give at least two rows"
        )
    exact = in_single_precision(backbone)
    name = type(backbone.model).__name__
    with error_context(f"the native forward pass of {name}", "pass inputs= that this model itself can be called with"):
        before = last_states(backbone, inputs)
        steady = _identical(last_states(backbone, inputs), before)
    if not steady:
        raise RltrError(
            f"{name} answers the same inputs in another way each time, so nothing can be compared with it: pass the "
            "inputs that it draws by chance (noise, of a ViT-MAE), too"
        )
    with error_context(
        f"{name} with fewer tokens", "it cannot be run reduced; if it can be, its family= is described wrongly"
    ):
        everyone, trace = _reduced(backbone, inputs, layers, _keep_all)
        generator = torch.Generator().manual_seed(seed)
        masks = torch.rand(len(layers), *trace.stages[0].present.shape, generator=generator).to(backbone.device) < 0.5
        dropped, left = _reduced(backbone, inputs, layers, _replay(masks))
        merge = _Merge(masks)
        merged, averaged = _reduced(backbone, inputs, layers, merge, "merge")
        other = {key: value[1:2] for key, value in inputs.items()}
        alone, _ = _reduced(backbone, other, layers, _replay(masks[:, 1:2]))
    ways = [
        None,
        Departures(left.present, left.layers),
        Departures(averaged.present, averaged.layers, torch.stack(merge.into)),
    ]
    with error_context(
        f"the reference for {name}", "nothing can be proven of a model that computes attention otherwise"
    ):
        right = [_whole(exact, inputs, way) for way in ways]
        native = right if exact is backbone else [_whole(backbone, inputs, way) for way in ways]
    last = [each.stages[-1].present for each in (trace, left, averaged)]
    kept, lost, taken = (apart(*pair) for pair in _of(last, [everyone, dropped, merged], right))
    return Proof(
        kept=kept,
        dropped=lost,
        merged=taken,
        alone=apart(alone[last[1][1:2]], dropped[1:2][last[1][1:2]]),
        tolerance=max(tolerance(*pair, _precision(backbone)) for pair in _of(last, native, right)),
        restored=_identical(native[0], before),
    )


def _precision(backbone: Backbone) -> torch.dtype:
    """What a model computes in: transformers' eager attention, which some have only, is in single precision at most."""
    double = backbone.dtype == torch.float64
    return torch.float32 if double and not backbone.root._supports_sdpa else backbone.dtype


def _identical(one: Tensor, other: Tensor) -> bool:
    """Bit for bit the same; what is no number (some models' padding) stays none."""
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


def last_states(backbone: Backbone, inputs: Mapping[str, Tensor]) -> Float[Tensor, "rows grid width"]:
    """What the last layer gives in a forward pass of the model."""
    with _caught(backbone) as caught:
        backbone.model(**backbone.uncached(inputs))
    if not caught:
        raise RltrError(
            f"no layer of {type(backbone.root).__name__} runs on {', '.join(inputs)}: pass inputs= for the part whose "
            "tokens may leave"
        )
    if caught[-1].ndim != 3:
        raise RltrError(f"{type(backbone.model).__name__} is not supported: {GRID} ({caught[-1].ndim} dimensions)")
    return caught[-1]


def _whole(backbone: Backbone, inputs: Mapping[str, Tensor], departures: Departures | None) -> Tensor:
    """What the last layer gives natively, or as the reference where somebody leaves."""
    with on_the_whole_grid(backbone, departures) if departures else nullcontext():
        return last_states(backbone, as_its_own(backbone, inputs))


def _of(present: list[Tensor], ones: list[Tensor], others: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """States of the tokens that are there in the end, of each two runs."""
    return [(one[there], other[there]) for there, one, other in zip(present, ones, others, strict=True)]


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
        leave, into, found = decision.redundancy.partners(kept)
        if found is not None:
            kept[leave[~found]] = True
            leave, into = leave[found], into[found]
        places = torch.arange(tokens.grid, device=into.device).repeat(len(tokens.counts), 1)
        places[tokens.row[leave], tokens.position[leave]] = tokens.position[into]
        self.into.append(places)
        # A choice names partners in the order of the tokens that leave.
        return Choice(kept, into[leave.argsort()])


def _reduced(
    backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], decide: Decide, removal: Removal = "drop"
) -> tuple[Tensor, Trace]:
    with backbone.attached(), _caught(backbone) as caught:
        _, trace = backbone.run(backbone.forward(decide, layers, removal), inputs)
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
