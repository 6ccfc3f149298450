"""The standard operating points: a policy at several cost weights, every baseline at several keep rates."""

import logging
from collections.abc import Sequence

import torch

from rltr.cost import FlopsCost, LatencyCost
from rltr.deploy.folder import Policy
from rltr.errors import RltrError
from rltr.evaluate.points import POLICY, UNTRAINED, OperatingPoint
from rltr.policies.network import TokenPolicy, decision_flops
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.selectors import KeepAll, Selector, baseline
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel

log = logging.getLogger(__name__)


def policy_points(
    backbone: Backbone, policy: Policy, weights: Sequence[float], untrained: Sequence[float] = ()
) -> list[OperatingPoint]:
    """The policy at each cost weight, with what it does to dropped tokens as it was trained.

    Its latency is predicted if its table was measured under the current conditions.

    Args:
        backbone: the model it was trained for.
        policy: the policy.
        weights: cost weights.
        untrained: cost weights at which the same policy is run with the weights it started from, too: its priors and
            nothing learned.
    """
    flops = FlopsCost.count(backbone.layers, *decision_flops(policy.network.config))
    forecast = _forecast(policy, backbone)
    pairs = [(POLICY, policy.network, weights)]
    if untrained:
        pairs.append((UNTRAINED, fresh(policy), untrained))
    points = []
    for method, network, settings in pairs:
        network = network.to(backbone.device)
        for weight in settings:
            reduce = ReducedModel(backbone, Learned(network, policy.pricing, weight), policy.layers, policy.removal)
            points.append(
                OperatingPoint(
                    method, policy.removal, weight, reduce, "cost weight", backbone.attached, flops, forecast
                )
            )
    return points


def fresh(policy: Policy) -> TokenPolicy:
    """The policy's network as it is before training; always the same, and torch's generator is left alone."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return TokenPolicy(policy.network.config).eval().requires_grad_(False)


def evenly_spaced(weights: Sequence[float], count: int = 4) -> list[float]:
    """At most ``count`` of the cost weights, lowest and highest among them: enough to see what a prior alone does."""
    ordered = sorted(weights)
    last = len(ordered) - 1
    return [ordered[i] for i in sorted({round(step * last / (count - 1)) for step in range(count)})]


def baseline_points(
    backbone: Backbone, methods: Sequence[str], rates: Sequence[float], *schedules: Sequence[int]
) -> list[OperatingPoint]:
    """Keeping everything, and each baseline at each keep rate, merging and dropping.

    A baseline that cannot decide before some layer (CLS attention before layer 0) decides before the next one instead,
    and is left out, with a warning, if that is no use either.

    Args:
        backbone: the frozen model.
        methods: names of baselines.
        rates: keep rates.
        schedules: decision layers, once or several times. Where they differ for a baseline, it runs with each, and the
            curves' names tell them apart; keeping everything runs with the first only.
    """
    points = [_point(backbone, "none", "none", 1.0, KeepAll(), schedules[0])]
    for method in methods:
        selector = baseline(method, 1.0)
        wanted = [tuple(selector.decision_layers(layers, backbone.depth)) for layers in schedules]
        possible = list(filter(None, dict.fromkeys(_possible(backbone, method, layers) for layers in wanted)))
        for layers in possible:
            layers_label = f"layers {' '.join(map(str, layers))}" if len(possible) > 1 else ""
            for removal in selector.modes:
                points += [
                    _point(backbone, method, removal, rate, baseline(method, rate), layers, layers_label)
                    for rate in rates
                ]
    return points


def _possible(backbone: Backbone, method: str, layers: Sequence[int]) -> tuple[int, ...]:
    """The layers at which a baseline can decide, or the next ones where it cannot; if there are none, it says why."""
    selector, possible, reason = baseline(method, 1.0), [], f"there is no layer to decide at ({backbone.depth} layers)"
    for layer in layers:
        for instead in range(layer, min(layer + 2, backbone.depth)):
            try:
                selector.check(backbone, [instead])
            except RltrError as error:
                reason = str(error)
            else:
                possible.append(instead)
                break
    if not possible:
        log.warning("%s is left out at layers %s: %s", method, " ".join(map(str, layers)) or "1 and up", reason)
    return tuple(sorted(set(possible)))


def _point(
    backbone: Backbone,
    method: str,
    removal: str,
    rate: float,
    selector: Selector,
    layers: Sequence[int],
    layers_label: str = "",
) -> OperatingPoint:
    mode: Removal = "drop" if removal == "drop" else "merge"
    reduce = ReducedModel(backbone, selector, layers, mode)
    flops = FlopsCost.count(backbone.layers, *selector.decision_flops(backbone, mode))
    return OperatingPoint(method, removal, rate, reduce, "keep rate", backbone.attached, flops, None, layers_label)


def _forecast(policy: Policy, backbone: Backbone) -> LatencyCost | None:
    """The latency table of the policy, unless it holds only elsewhere; the reason is said."""
    if not isinstance(policy.cost, LatencyCost):
        return None
    try:
        policy.cost.check(backbone)
    except RltrError as error:
        log.warning("no latency is predicted: %s", error)
        return None
    return policy.cost
