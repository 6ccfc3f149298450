"""Standard operating points: a policy at several cost weights, and every baseline at several keep rates."""

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
    """Operating points of a policy, one per cost weight, with the layers and the removal it was trained with.

    Their latency is predicted if the policy's latency table was measured under the current conditions.

    Args:
        backbone: the model it was trained for.
        policy: the policy.
        weights: cost weights.
        untrained: cost weights for further points with the untrained network, which has only its priors.
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
    """Network of the policy before training; deterministic, and without effect on torch's global generator."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return TokenPolicy(policy.network.config).eval().requires_grad_(False)


def evenly_spaced(weights: Sequence[float], count: int = 4) -> list[float]:
    """Pick at most ``count`` of the cost weights, evenly spaced, the lowest and the highest included."""
    ordered = sorted(weights)
    last = len(ordered) - 1
    return [ordered[i] for i in sorted({round(step * last / (count - 1)) for step in range(count)})]


def baseline_points(
    backbone: Backbone, methods: Sequence[str], rates: Sequence[float], *schedules: Sequence[int]
) -> list[OperatingPoint]:
    """Operating points of keeping every token and of each baseline at each keep rate, merging and dropping.

    A baseline that cannot decide before a layer (CLS attention before layer 0) decides before the next one instead. If
    that is not possible either, it is left out with a warning.

    Args:
        backbone: the frozen model.
        methods: names of baselines.
        rates: keep rates.
        schedules: one or several sets of decision layers. A baseline runs with each set that differs for it, and the
            names of the curves then include the layers. Keeping every token runs only with the first.
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
    """Decision layers of a baseline, moved to the next layer where needed; warns with the reason if there are none."""
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
    """Latency table of the policy; None, with a warning, if it was measured under other conditions."""
    if not isinstance(policy.cost, LatencyCost):
        return None
    try:
        policy.cost.check(backbone)
    except RltrError as error:
        log.warning("no latency is predicted: %s", error)
        return None
    return policy.cost
