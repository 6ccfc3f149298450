"""The usual operating points: a policy at several cost weights, every baseline at several keep rates."""

from collections.abc import Sequence

from rltr.backbone import Backbone
from rltr.cost import FlopsCost
from rltr.evaluate.points import POLICY, OperatingPoint
from rltr.export.folder import Policy
from rltr.forward import Dropped
from rltr.policies.network import decision_flops
from rltr.reduction import Reduction
from rltr.selectors import KeepAll, Selector, ranking
from rltr.selectors.learned import Learned

MODES: tuple[Dropped, ...] = ("merge", "drop")


def policy_points(backbone: Backbone, policy: Policy, weights: Sequence[float]) -> list[OperatingPoint]:
    """The policy at each cost weight, with what it does to dropped tokens as it was trained."""
    flops = FlopsCost.count(backbone.layers, *decision_flops(policy.network.config))
    network = policy.network.to(backbone.device)
    points = []
    for weight in weights:
        reduce = Reduction(backbone, Learned(network, policy.pricing, weight), policy.layers, policy.dropped)
        points.append(
            OperatingPoint(POLICY, policy.dropped, weight, reduce, "cost weight", backbone.attached, flops, policy.cost)
        )
    return points


def baseline_points(
    backbone: Backbone, methods: Sequence[str], rates: Sequence[float], layers: Sequence[int]
) -> list[OperatingPoint]:
    """Keeping everything, and each baseline at each keep rate, merging and dropping.

    All decide at ``layers``, but ToMe at every layer from 1 on, as its paper does; it only merges.
    """
    points = [_point(backbone, "none", "none", 1.0, KeepAll(), layers)]
    for method in methods:
        where = range(1, backbone.depth) if method == "tome" else layers
        for dropped in MODES[:1] if method == "tome" else MODES:
            points += [_point(backbone, method, dropped, rate, ranking(method, rate), where) for rate in rates]
    return points


def _point(
    backbone: Backbone, method: str, dropped: str, rate: float, selector: Selector, layers: Sequence[int]
) -> OperatingPoint:
    mode: Dropped = "drop" if dropped == "drop" else "merge"
    reduce = Reduction(backbone, selector, layers, mode)
    flops = FlopsCost.count(backbone.layers, 0, _pair_flops(backbone, method, dropped))
    return OperatingPoint(method, dropped, rate, reduce, "keep rate", backbone.attached, flops)


def _pair_flops(backbone: Backbone, method: str, dropped: str) -> int:
    """FLOPs of one decision per pair of tokens: similarities between two halves of a row are a quarter of all pairs."""
    halves = 2 * backbone.width // 4
    if method == "none":
        return 0
    if method == "tome":
        return halves // backbone.config.num_attention_heads  # keys averaged over heads
    return halves * ((dropped == "merge") + (method == "redundancy"))
