"""Overhead of decisions: time of policy, features, merging and packing in a pass, as a share of the native time.

The parts are timed inside the reduced forward pass. *policy* is the network and the prices; *features* are normalised
hidden states, redundancy and the pooled token's attention; *merging* is finding partners, averaging and the new index;
*packing* is the index work for rows of different lengths and for the output, including that in layers
(:mod:`benchmarks.packing`).

The policy is untrained. Its last layers have random weights, so that rows keep different numbers of tokens, as with a
trained policy, and its threshold is tuned until the pass has the wanted cost. --policy replaces it, for the embedded
model, with a trained policy at the cost weight calibrated for that cost. At cost 1 all tokens are kept, and the time of
the whole pass is judged.

Goal: at most 6 % for the embedded model and 2 % for ViT-S and MiniLM; at most 1.05 for a pass that keeps all tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.models import add_size_options, embedded, minilm, noise, sized, test_images, words
from benchmarks.packing import INDEX_WORK, Watch
from benchmarks.paired import Contender, abba
from benchmarks.results import begin, finish, options
from rltr.cost import FlopsCost
from rltr.cost.pricing import Pricing
from rltr.deploy import Policy, load_policy, weight_for_budget
from rltr.envs import default_layers
from rltr.envs.episodes import row_length
from rltr.evaluate.statistics import median_ratio
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.policies.observation import Observation
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.runtime.forward import Forward
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel

GOALS = {"embedded": 0.06, "vit-s": 0.02, "minilm-128": 0.02, "minilm-256": 0.02}
KEEP_ALL = 1.05
PARTS = ("policy", "features", "merging", "packing")
PARTS_OF: list[tuple[str, type, str]] = [
    ("deciding", Forward, "_decide"),
    ("choosing", Learned, "__call__"),
    ("features", Observation, "of_decision"),
    ("packing", Forward, "_pack"),
    ("packing", Forward, "_on_grid"),
    *(("packing", owner, name) for owner, name in INDEX_WORK),
]
"""Name, class and method of everything that is timed.

``features`` is part of ``choosing``, which is part of ``deciding``; the parts are found by subtraction.
"""


@contextmanager
def parts_timed(device: torch.device) -> Iterator[list[dict[str, float]]]:
    """Yield a list; every reduced pass appends its seconds of each of :data:`PARTS`, and their sum as ``all``."""
    passes: list[dict[str, float]] = []
    watch = Watch()
    call = ReducedModel.__call__

    def one_pass(self: ReducedModel, inputs: Any) -> Any:
        watch.seconds.clear()
        result = call(self, inputs)
        spent = watch.seconds
        found = {
            "policy": spent["choosing"] - spent["features"],
            "features": spent["features"],
            "merging": spent["deciding"] - spent["choosing"],
            "packing": spent["packing"],
        }
        passes.append(found | {"all": sum(found.values())})
        return result

    with ExitStack() as stack:
        for name, owner, method in PARTS_OF:
            bound = vars(owner)[method]
            timed_one = watch.around(name, bound.__func__ if isinstance(bound, classmethod) else bound, device)
            patched = classmethod(timed_one) if isinstance(bound, classmethod) else timed_one
            stack.enter_context(patch.object(owner, method, patched))
        stack.enter_context(patch.object(ReducedModel, "__call__", one_pass))
        yield passes


def uneven_policy(backbone: Backbone, grid: int) -> TokenPolicy:
    """An untrained policy that keeps different numbers of tokens in different rows."""
    network = TokenPolicy(PolicyConfig(backbone.width, backbone.depth, grid, backbone.family.pooled)).to(
        backbone.device
    )
    weight, _ = last_of_threshold(network)
    nn.init.normal_(network.keep.weight, std=0.1)
    nn.init.normal_(weight, std=0.1)
    return network


def last_of_threshold(network: TokenPolicy) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that computes each row's threshold."""
    *_, weight, bias = network.threshold.parameters()
    return weight, bias


def tune(reduce: ReducedModel, network: TokenPolicy, pricing: Pricing, inputs: dict[str, Tensor], cost: float) -> None:
    """Tune the policy's threshold by bisection, until a pass has the wanted cost, as a fraction of the dense FLOPs."""
    low, high = -8.0, 8.0
    _, bias = last_of_threshold(network)
    with torch.inference_mode(), reduce.backbone.attached():
        for _ in range(10):
            nn.init.constant_(bias, (low + high) / 2)
            _, trace = reduce(inputs)
            counts = [torch.tensor(stage.counts) for stage in trace.stages]
            found = (pricing.total(counts).sum() / pricing.dense(counts[0]).sum()).item()
            low, high = (low, (low + high) / 2) if found > cost else ((low + high) / 2, high)


@dataclass(frozen=True)
class Reduced:
    """A reduced pass.

    Attributes:
        reduce: runs the pass.
        kept: mean number of tokens per row after each decision.
    """

    reduce: ReducedModel
    kept: list[int]


def reduced_to(
    cost: float, backbone: Backbone, inputs: dict[str, Tensor], removal: Removal = "merge", policy: Policy | None = None
) -> Reduced:
    """Build a reduced pass with a policy that has a given cost.

    Args:
        cost: fraction of the dense FLOPs, 0 to 1; 1 keeps all tokens.
        backbone: the model.
        inputs: a batch on the model's device.
        removal: what happens to removed tokens.
        policy: a trained policy; None tunes an untrained one.
    """
    grid = row_length(backbone, {key: value[:1] for key, value in inputs.items()})
    if policy and cost < 1:
        weight = weight_for_budget(policy.calibration, cost)
        selector = Learned(policy.network.to(backbone.device), policy.pricing, weight)
        reduce = ReducedModel(backbone, selector, policy.layers, policy.removal)
    else:
        layers = policy.layers if policy else default_layers(backbone.depth)
        network = uneven_policy(backbone, grid)
        pricing = Pricing(FlopsCost.count(backbone.layers), layers, backbone.depth, grid)
        reduce = ReducedModel(backbone, Learned(network, pricing, 0.5), layers, removal)
        if cost < 1:
            tune(reduce, network, pricing, {key: value[:16] for key, value in inputs.items()}, cost)
        else:
            nn.init.constant_(last_of_threshold(network)[1], 1e3)
    with torch.inference_mode(), backbone.attached():
        _, trace = reduce(inputs)
    return Reduced(reduce, [round(stage.total / len(stage.counts)) for stage in trace.stages[1:]])


def measure_one(
    backbone: Backbone, inputs: dict[str, Tensor], reduced: Reduced, cost: float, rounds: int, goal: float
) -> dict[str, Any]:
    """Time a pass with a policy, and its parts, as fractions of the native time.

    Args:
        backbone: the model.
        inputs: a batch on the model's device.
        reduced: the pass, from :func:`reduced_to`.
        cost: the cost it was built for.
        rounds: rounds of alternation.
        goal: largest accepted time of decisions, as a fraction of the native time.
    """
    native = Contender(partial(backbone.model, **backbone.uncached(inputs)))
    with parts_timed(backbone.device) as passes:
        found = abba(Contender(partial(reduced.reduce, inputs), backbone.attached), native, backbone.device, rounds)
    # The first pass warms up; each round has two passes.
    spent = [[sum(two[part] for two in pair) for pair in batched(passes[1:], 2)] for part in ("all", *PARTS)]
    (share, interval), *shares = (median_ratio(own, found.second) for own in spent)
    ratio = found.ratio[0]
    return {
        "cost": cost,
        "tokens kept": reduced.kept,
        "pass / native": ratio,
        "decisions / native": share,
        "95 %": interval,
        "goal": f"≤ {goal}" if cost < 1 else f"pass ≤ {KEEP_ALL}",
        "met": share <= goal if cost < 1 else ratio <= KEEP_ALL,
        **{part: own for part, (own, _) in zip(PARTS, shares, strict=True)},
    }


def batched(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """``values`` in pieces of ``size``."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def main() -> None:
    parser = options(__doc__, rounds=10)
    add_size_options(parser)
    parser.add_argument("--model", choices=list(GOALS), nargs="+", default=list(GOALS))
    parser.add_argument(
        "--cost",
        type=float,
        nargs="+",
        default=[1.0, 0.9, 0.7, 0.5, 0.3],
        help="costs of the pass, as fractions of the dense FLOPs",
    )
    parser.add_argument("--removal", choices=["merge", "drop"], default="merge")
    parser.add_argument("--policy", type=Path, help="a trained policy of the embedded model")
    args = begin(parser)
    small = sized(args)
    policy = load_policy(args.policy) if args.policy else None
    rows = []
    for name in args.model:
        backbone = {"embedded": embedded, "vit-s": lambda: small}.get(name, minilm)()
        trained = policy if name == "embedded" else None
        for batch in args.batch:
            if name == "embedded":
                inputs = test_images(batch)
            else:
                inputs = noise(backbone, batch) if name == "vit-s" else words(backbone, batch, int(name[-3:]))
            for cost in args.cost:
                reduced = reduced_to(cost, backbone, inputs, args.removal, trained)
                found = measure_one(backbone, inputs, reduced, cost, args.rounds, GOALS[name])
                dtype = str(backbone.dtype).removeprefix("torch.")
                rows.append({"model": name, "dtype": dtype, "batch": batch, **found})
    finish(args, backbone, rows)


if __name__ == "__main__":
    main()
