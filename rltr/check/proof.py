"""Prove that a model is exact with fewer tokens; every supported family passes this proof.

The last layer's hidden states of reduced passes are compared with those of the native model and of
:mod:`rltr.check.reference`. So the proof does not depend on the model's head.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rltr.check.reference import Departures, reference_pass
from rltr.check.rounding import in_its_precision, in_single_precision, max_difference, tolerance
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decide, Decision, Removal, Trace
from rltr.runtime.families import GRID
from rltr.system.error_context import error_context


@dataclass(frozen=True)
class Proof:
    """Largest absolute differences between the hidden states of reduced and expected passes after the last layer.

    A model in half precision is compared with the same weights in single precision.

    Attributes:
        kept: every token kept, against the native model.
        dropped: random tokens dropped, against the reference.
        merged: random tokens merged, against the reference, which uses the same merge partners.
        alone: one row in a batch, against the same row alone; random tokens dropped.
        tolerance: largest difference that rounding explains, see :func:`rltr.check.rounding.tolerance`.
        restored: whether the detached model gives bit for bit the hidden states from before.
    """

    kept: float
    dropped: float
    merged: float
    alone: float
    tolerance: float
    restored: bool

    @property
    def holds(self) -> bool:
        """Whether the model is exact with fewer tokens."""
        # False for a difference of NaN, and if the native model overflows, which makes the tolerance infinite or NaN.
        errors = (self.kept, self.dropped, self.merged, self.alone)
        return self.restored and all(error <= self.tolerance < math.inf for error in errors)


@torch.no_grad()
def prove(backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], seed: int = 0) -> Proof:
    """Compare reduced passes on ``inputs`` with the native model and the reference.

    A model in half precision is also copied to single precision, which takes twice its memory in addition.

    Args:
        backbone: the model.
        inputs: at least two rows, of different lengths if the model supports padding.
        layers: decision layers, ascending.
        seed: seed of the random half of the tokens that is removed at each decision.

    Raises:
        RltrError: if there are fewer than two rows, if the native model is not deterministic, or if a pass fails.
    """
    if (rows := min(map(len, inputs.values()), default=0)) < 2:
        raise RltrError(
            f"inputs of {rows} row{'' if rows == 1 else 's'} cannot show whether the rows of a batch affect each "
            "other: give at least two rows"
        )
    exact = in_single_precision(backbone)
    name = type(backbone.model).__name__
    with error_context(f"the native forward pass of {name}", "pass inputs= that this model itself can be called with"):
        before = last_states(backbone, inputs)
        deterministic = _identical(last_states(backbone, inputs), before)
    if not deterministic:
        raise RltrError(
            f"{name} gives different answers to the same inputs, so nothing can be compared with it: also pass the "
            "inputs that it draws at random (such as noise for a ViT-MAE)"
        )
    with error_context(
        f"{name} with fewer tokens", "the model cannot be run reduced, or its family= is described wrongly"
    ):
        everything, trace = _reduced(backbone, inputs, layers, _keep_all)
        generator = torch.Generator().manual_seed(seed)
        masks = torch.rand(len(layers), *trace.stages[0].present.shape, generator=generator).to(backbone.device) < 0.5
        dropped, drop_trace = _reduced(backbone, inputs, layers, _replay(masks))
        merge = _Merge(masks)
        merged, merge_trace = _reduced(backbone, inputs, layers, merge, "merge")
        second_row = {key: value[1:2] for key, value in inputs.items()}
        alone, _ = _reduced(backbone, second_row, layers, _replay(masks[:, 1:2]))
    departures = [
        None,
        Departures(drop_trace.present, drop_trace.layers),
        Departures(merge_trace.present, merge_trace.layers, torch.stack(merge.into)),
    ]
    with error_context(f"the reference for {name}", "a model whose attention cannot be replaced cannot be checked"):
        expected = [_expected_states(exact, inputs, each) for each in departures]
        native = expected if exact is backbone else [_expected_states(backbone, inputs, each) for each in departures]
    last = [each.stages[-1].present for each in (trace, drop_trace, merge_trace)]
    errors = [max_difference(*pair) for pair in _pairs_at(last, [everything, dropped, merged], expected)]
    return Proof(
        kept=errors[0],
        dropped=errors[1],
        merged=errors[2],
        alone=max_difference(alone[last[1][1:2]], dropped[1:2][last[1][1:2]]),
        tolerance=max(tolerance(*pair, _precision(backbone)) for pair in _pairs_at(last, native, expected)),
        restored=_identical(native[0], before),
    )


def _precision(backbone: Backbone) -> torch.dtype:
    """Precision of a model's forward pass: transformers' eager attention is in single precision at most."""
    double = backbone.dtype == torch.float64
    return torch.float32 if double and not backbone.root._supports_sdpa else backbone.dtype


def _identical(one: Tensor, other: Tensor) -> bool:
    """Whether tensors are equal, with NaN at the same places (the padding of some models)."""
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


def last_states(backbone: Backbone, inputs: Mapping[str, Tensor]) -> Float[Tensor, "rows grid width"]:
    """Hidden states after the last layer in a forward pass of the model.

    Raises:
        RltrError: if the last layer does not run on these inputs, or its hidden states are not one row of tokens.
    """
    with _last_layer_outputs(backbone) as outputs:
        backbone.model(**backbone.uncached(inputs))
    if not outputs:
        raise RltrError(
            f"no layer of {type(backbone.root).__name__} runs on {', '.join(inputs)}: pass inputs= for the part that "
            "is run on fewer tokens"
        )
    if outputs[-1].ndim != 3:
        raise RltrError(f"{type(backbone.model).__name__} is not supported: {GRID} ({outputs[-1].ndim} dimensions)")
    return outputs[-1]


def _expected_states(backbone: Backbone, inputs: Mapping[str, Tensor], departures: Departures | None) -> Tensor:
    """Hidden states after the last layer, of the native model or of the reference for given departures."""
    with reference_pass(backbone, departures) if departures else nullcontext():
        return last_states(backbone, in_its_precision(backbone, inputs))


def _pairs_at(present: list[Tensor], ones: list[Tensor], others: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of two runs' hidden states at the tokens that remain at the end."""
    return [(one[mask], other[mask]) for mask, one, other in zip(present, ones, others, strict=True)]


def _keep_all(decision: Decision) -> Choice:
    return Choice(torch.ones_like(decision.protected))


def _replay(masks: Bool[Tensor, "decisions rows grid"]) -> Decide:
    return lambda decision: Choice(masks[decision.index][decision.tokens.row, decision.tokens.position])


class _Merge:
    """Keeps tokens by masks, and those that have no merge partner; records what each token is merged into."""

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
        # A choice lists partners in packed order of the removed tokens.
        return Choice(kept, into[leave.argsort()])


def _reduced(
    backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], decide: Decide, removal: Removal = "drop"
) -> tuple[Tensor, Trace]:
    with backbone.attached(), _last_layer_outputs(backbone) as outputs:
        _, trace = backbone.run(backbone.forward(decide, layers, removal), inputs)
    return outputs[-1], trace


@contextmanager
def _last_layer_outputs(backbone: Backbone) -> Iterator[list[Tensor]]:
    """Record outputs of the last layer in a forward pass; the last one counts if it runs several times."""
    outputs: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handle = backbone.layers[-1].register_forward_hook(catch)
    try:
        yield outputs
    finally:
        handle.remove()
