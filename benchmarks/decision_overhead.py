"""What deciding costs: policy, redundancy, merging and packing of all decisions of a pass, over the native time.

The decisions are timed inside of the reduced forward pass. The policy is an untrained one whose last layers have random
weights, so that rows keep different numbers of tokens, as with a trained one; its threshold is moved until the pass has
the wanted cost. With --policy a trained one takes its place for the embedded model, at its calibrated budget.

Goal: at most 6 % for the embedded model and 3 % for a ViT-S.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import add_size_options, embedded, noise, sized, test_images, tokens_per_row
from benchmarks.paired import Contender, abba
from benchmarks.results import begin, finish, options
from rltr.backbone import Backbone
from rltr.cost import FlopsCost
from rltr.envs import default_layers
from rltr.evaluate.statistics import median_ratio
from rltr.export import load_policy, weight_for_budget
from rltr.forward import Forward
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.pricing import Pricing
from rltr.reduction import Reduction
from rltr.selectors.learned import Learned
from rltr.timing import timed

GOALS = {"embedded": 0.06, "vit-s": 0.03}


@contextmanager
def decisions_timed(device: torch.device) -> Iterator[list[dict[str, float]]]:
    """Yield a list that gets seconds of ``all`` and of the ``policy`` (with redundancy) of every decision."""
    seconds: list[dict[str, float]] = []
    original = Forward._decide

    def measured(self: Forward, hidden: Tensor) -> Tensor:
        choose, own = self.decide, []

        def decide(decision: Any) -> Any:
            choice, took = timed(partial(choose, decision), device)
            own.append(took)
            return choice

        self.decide = decide
        result, took = timed(partial(original, self, hidden), device)
        self.decide = choose
        seconds.append({"all": took, "policy": own[0]})
        return result

    Forward._decide = measured  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Forward._decide = original  # type: ignore[method-assign]


def uneven_policy(backbone: Backbone, grid: int) -> TokenPolicy:
    """An untrained policy that keeps different numbers of tokens in different rows."""
    network = TokenPolicy(PolicyConfig(backbone.width, backbone.depth, grid, backbone.family.reader)).to(
        backbone.device
    )
    weight, _ = last_of_threshold(network)
    nn.init.normal_(network.keep.weight, std=0.1)
    nn.init.normal_(weight, std=0.1)
    return network


def last_of_threshold(network: TokenPolicy) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that gives each row its threshold."""
    *_, weight, bias = network.threshold.parameters()
    return weight, bias


def tune(reduce: Reduction, network: TokenPolicy, pricing: Pricing, inputs: dict[str, Tensor], cost: float) -> None:
    """Move the policy's threshold, by bisection, until a pass costs what it should, as a share of the dense FLOPs."""
    low, high = -8.0, 8.0
    _, bias = last_of_threshold(network)
    with torch.inference_mode(), reduce.backbone.attached():
        for _ in range(10):
            nn.init.constant_(bias, (low + high) / 2)
            _, trace = reduce(inputs)
            counts = [torch.tensor(stage.counts) for stage in trace.stages]
            found = (pricing.total(counts).sum() / pricing.dense(counts[0]).sum()).item()
            low, high = (low, (low + high) / 2) if found > cost else ((low + high) / 2, high)


def measure_one(name: str, backbone: Backbone, inputs: dict[str, Tensor], args: Any, cost: float) -> dict[str, Any]:
    batch = len(inputs["pixel_values"])
    trained = load_policy(args.policy) if args.policy and name == "embedded" else None
    if trained and cost < 1:
        weight = weight_for_budget(trained.calibration, cost)
        selector = Learned(trained.network.to(backbone.device), trained.pricing, weight)
        reduce = Reduction(backbone, selector, trained.layers, trained.dropped)
    else:
        layers = trained.layers if trained else default_layers(backbone.depth)
        network = uneven_policy(backbone, tokens_per_row(backbone))
        pricing = Pricing(FlopsCost.count(backbone.layers), layers, backbone.depth, tokens_per_row(backbone))
        reduce = Reduction(backbone, Learned(network, pricing, 0.5), layers, args.dropped)
        if cost < 1:
            tune(reduce, network, pricing, {key: value[:16] for key, value in inputs.items()}, cost)
        else:
            nn.init.constant_(last_of_threshold(network)[1], 1e3)
    with torch.inference_mode(), backbone.attached():
        _, trace = reduce(inputs)
    native = Contender(partial(backbone.model, **inputs))
    with decisions_timed(backbone.device) as seconds:
        found = abba(Contender(partial(reduce, inputs), backbone.attached), native, backbone.device, args.rounds)
    steps = len(reduce.layers)
    shares = {}
    for part in ("all", "policy"):
        # The first pass warms up; a round has two.
        spent = torch.tensor([decision[part] for decision in seconds[steps:]]).view(args.rounds, 2 * steps).sum(1)
        shares[part] = median_ratio(spent, found.second)
    share, interval = shares["all"]
    return {
        "model": name,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "batch": batch,
        "decisions": steps,
        "tokens kept": [round(stage.total / batch) for stage in trace.stages[1:]],
        "pass / native": found.ratio[0],
        "decisions / native": share,
        "95 %": interval,
        "goal": f"≤ {GOALS[name]}",
        "met": share <= GOALS[name],
        "policy / native": shares["policy"][0],
    }


def main() -> None:
    parser = options(__doc__, rounds=10)
    add_size_options(parser)
    parser.add_argument("--model", choices=list(GOALS), nargs="+", default=list(GOALS))
    parser.add_argument("--cost", type=float, nargs="+", default=[1.0, 0.5], help="of the pass; 1 keeps everything")
    parser.add_argument("--dropped", choices=["merge", "drop"], default="merge")
    parser.add_argument("--policy", type=Path, help="a trained policy of the embedded model")
    args = begin(parser)
    small = sized(args)
    rows = []
    for name in args.model:
        backbone = embedded() if name == "embedded" else small
        for batch in args.batch:
            inputs = test_images(batch) if name == "embedded" else noise(backbone, batch)
            rows += [measure_one(name, backbone, inputs, args, cost) for cost in args.cost]
    finish(args, backbone, rows)


if __name__ == "__main__":
    main()
