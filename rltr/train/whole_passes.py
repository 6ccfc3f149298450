"""Time whole passes, native and reduced, in alternation, to check measured prices before a training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from statistics import median, quantiles

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from rltr.cost.passes import ReducedPass, WholePasses
from rltr.cost.rounds import CLOCK, Clock, Rounds, busy
from rltr.policies.network import TokenPolicy
from rltr.policies.observation import Observation
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal
from rltr.selectors.base import Selector
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.device import move_inputs
from rltr.system.timing import pass_order, timed, wait

LEFT = (0.75, 0.45, 0.2)
"""Fractions of tokens left after the last decision, one for each reduced pass that is timed."""
UNEVENNESS = 0.3
"""Largest relative deviation of a row's keep rate: a trained policy keeps more of some inputs than of others."""
FEWEST = 2
"""Minimum number of rounds, even if the time limit has passed."""
PRECISION = 0.02
"""Rounds end early once the lower quartile of each pass's times is at most this fraction above the fastest time."""


class AtRandom(Selector):
    """Selector that runs a policy, for its time, and then keeps random tokens at a rate that differs between rows.

    Args:
        policy: the policy to run; its output is not used.
        share: mean fraction of tokens kept at each decision.
    """

    def __init__(self, policy: TokenPolicy, share: float) -> None:
        self.policy = policy
        self.share = share
        self._kept: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def __call__(self, decision: Decision) -> Choice:
        """Choose the tokens to keep; the same ones in every pass."""
        ones = torch.ones(len(decision.tokens.counts), device=decision.hidden.device, dtype=torch.float32)
        self.policy(Observation.of_decision(decision, ones, ones))
        known = (decision.index, decision.tokens.counts)
        if known not in self._kept:  # drawing is not part of a decision, so it must not be timed again
            self._kept[known] = self._draw(decision)
        return Choice(self._kept[known])

    def _draw(self, decision: Decision) -> Bool[Tensor, " total"]:
        # Drawn on the CPU, so that every device keeps the same tokens.
        generator, rows = torch.Generator().manual_seed(decision.index), len(decision.tokens.counts)
        shares = self.share * (1 + UNEVENNESS * (2 * torch.rand(rows, generator=generator, dtype=torch.float32) - 1))
        drawn = torch.rand(decision.tokens.total, generator=generator, dtype=torch.float32).to(decision.hidden.device)
        return drawn < shares.to(decision.hidden.device).index_select(0, decision.tokens.row)


def probes(policy: TokenPolicy, layers: Sequence[int]) -> list[AtRandom]:
    """Selectors that leave the fractions ``LEFT`` of the tokens after the last of the decision ``layers``."""
    return [AtRandom(policy, left ** (1 / len(layers))) for left in LEFT]


def time_passes(
    backbone: Backbone,
    selectors: Sequence[Selector],
    layers: Sequence[int],
    removal: Removal,
    inputs: Mapping[str, Tensor],
    least: int = 5,
    most: int = 15,
    limit: float = 30.0,
    clock: Clock = CLOCK,
) -> WholePasses:
    """Time the native pass, and a reduced one with each selector, in alternation.

    Args:
        backbone: the model.
        selectors: choose the tokens to keep; each must keep the same tokens in every pass.
        layers: the decision layers.
        removal: whether removed tokens are merged or dropped.
        inputs: one batch.
        least: minimum number of rounds, unless ``limit`` has passed.
        most: maximum number of rounds.
        limit: seconds after which no further round begins, except for the first :data:`FEWEST`. A round of a large
            model takes minutes.
        clock: replaced in tests.
    """
    device = backbone.device
    inputs = move_inputs(inputs, device, backbone.dtype)
    reduced_models = [ReducedModel(backbone, selector, layers, removal) for selector in selectors]
    native = partial(backbone.model, **backbone.uncached(inputs))
    natives: list[float] = []
    arounds: list[float] = []
    seconds: list[list[float]] = [[] for _ in reduced_models]
    traces = []
    with torch.no_grad():
        native()
        for reduced_model in reduced_models:
            with backbone.attached():
                traces.append(reduced_model(inputs)[1])
        begun, worked = clock(), clock.cpu()
        for number in range(most):
            late = clock() - begun > limit
            if number >= FEWEST and (late or (number >= least and all(map(_settled, [natives, *seconds])))):
                break
            order = pass_order(len(reduced_models), number, 2)
            took = []
            for which in order:
                with nullcontext() if which is None else backbone.attached():
                    call = native if which is None else partial(reduced_models[which], inputs)
                    took.append(timed(call, device, clock)[1])
            for which, own in zip(order, took, strict=True):
                (natives if which is None else seconds[which]).append(own)
            arounds.append(_around(backbone, native, clock))
        wall = max(clock() - begun, 1e-9)
    rows = traces[0].present.shape[1]
    found = Rounds([natives, *seconds], (clock.cpu() - worked) / wall)
    reduced = [
        ReducedPass(
            _low(own) / _low(natives),
            trace.counts_per_layer(backbone.depth),
            torch.tensor([stage.counts for stage in trace.stages[:-1]]),
        )
        for own, trace in zip(seconds, traces, strict=True)
    ]
    sign = busy(found, device, clock)
    around = median(arounds)
    return WholePasses(traces[0].grid, _low(natives) / rows, around, reduced, sign, found.disagreement)


def _low(seconds: Sequence[float]) -> float:
    """Lower quartile. Other processes only ever add time, so low times are best, but the minimum may be an outlier."""
    return quantiles(seconds, method="inclusive")[0]


def _settled(seconds: Sequence[float]) -> bool:
    """Whether the lower quartile is precise enough: it is close to the fastest time."""
    return _low(seconds) <= min(seconds) * (1 + PRECISION)


def _around(backbone: Backbone, native: Callable[[], object], clock: Callable[[], float]) -> float:
    """Fraction of the time of a native pass that is spent before the first layer and after the last."""
    with _layers_watched(backbone, clock) as marks:
        _, total = timed(native, backbone.device, clock)
    return 1 - (marks[-1] - marks[0]) / total


@contextmanager
def _layers_watched(backbone: Backbone, clock: Callable[[], float]) -> Iterator[list[float]]:
    """Yield a list to which hooks append the time at the start of the first layer and at the end of the last."""
    marks: list[float] = []

    def mark(*_: object) -> None:
        wait(backbone.device)
        marks.append(clock())

    first: nn.Module = backbone.layers[0]
    handles = [first.register_forward_pre_hook(mark), backbone.layers[-1].register_forward_hook(mark)]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()
