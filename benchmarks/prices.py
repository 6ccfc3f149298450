"""Accuracy of measured prices: predicted and measured time of whole reduced passes that were not used to fit them.

Prices are measured as in training: parts of the model are timed, curves are fitted, and both are scaled to three passes
with randomly dropped tokens. The predicted passes are those of an untrained policy with random last layers, tuned to
several costs, so that rows keep different numbers of tokens, as with a trained policy.

Goal: relative times within 7 % in the median and 15 % at worst, for the embedded model, MiniLM and a ViT-S.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.decision_overhead import tune, uneven_policy
from benchmarks.models import embedded, minilm, noise, test_images, texts, vit_small
from benchmarks.results import begin, console, finish, options
from rltr.cost import FlopsCost, LatencyCost
from rltr.cost.curve import Curve
from rltr.cost.pricing import Pricing
from rltr.cost.rounds import CLOCK, Clock
from rltr.cost.scaling import predict
from rltr.envs import default_layers
from rltr.envs.episodes import row_length
from rltr.runtime.backbone import Backbone
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel
from rltr.train.cost_model import CostInputs, measured_cost
from rltr.train.whole_passes import time_passes

USUAL, WORST = 0.07, 0.15
"""Largest accepted median and worst relative error of relative times."""
BATCHES = {"embedded": 64, "minilm": 8, "vit-s": 16}


@dataclass(frozen=True)
class Inputs:
    """Inputs that prices are measured with: one input with the most tokens, and a batch, both on the model's device."""

    longest: dict[str, Tensor]
    batch: dict[str, Tensor]

    @property
    def rows(self) -> int:
        """Number of inputs in the batch."""
        return len(next(iter(self.batch.values())))


def build(name: str, rows: int) -> tuple[Backbone, Inputs]:
    """Build a model and its inputs."""
    if name == "minilm":
        backbone = minilm()
        batch = texts(backbone, rows)
        return backbone, Inputs({key: value[:1] for key, value in batch.items()}, batch)
    backbone = embedded() if name == "embedded" else vit_small()
    batch = test_images(rows) if name == "embedded" else noise(backbone, rows)
    return backbone, Inputs({key: value[:1] for key, value in batch.items()}, batch)


def measure_one(
    backbone: Backbone, inputs: Inputs, costs: Sequence[float], rounds: int, clock: Clock = CLOCK
) -> tuple[LatencyCost, list[dict[str, Any]]]:
    """Measure prices; compare predicted with measured relative times, one row for each cost.

    Args:
        backbone: the model.
        inputs: inputs for the model.
        costs: costs of the passes, as fractions of the dense FLOPs.
        rounds: smallest number of timed rounds of whole passes.
        clock: clock to time with.
    """
    grid, layers = row_length(backbone, inputs.longest), default_layers(backbone.depth)
    pricing = Pricing(FlopsCost.count(backbone.layers), layers, backbone.depth, grid)
    selectors = []
    for cost in costs:
        network = uneven_policy(backbone, grid)
        selectors.append(Learned(network, pricing, 0.5))
        tune(ReducedModel(backbone, selectors[-1], layers, "merge"), network, pricing, _some(inputs.batch), cost)
    priced = CostInputs(backbone, network.config, layers, "merge", inputs.longest, inputs.batch)
    prices = measured_cost(priced, inputs.rows, clock)
    passes = time_passes(backbone, selectors, layers, "merge", inputs.batch, least=rounds, clock=clock)
    assert prices.fit is not None
    residuals = [curve.residual for curve in [*prices.tables.values(), prices.overhead] if isinstance(curve, Curve)]
    console.print(
        f"error of fitted passes {prices.fit.median_error:.1%}, at worst {prices.fit.worst_error:.1%}; "
        f"of curves of layers and decisions {', '.join(f'{residual:.1%}' for residual in residuals)}; "
        f"native layers take {prices.native:.2f} of the time that their curves give; "
        f"busy: {prices.busy or passes.busy or 'no'}"
    )
    rows_found = []
    for wanted, one in zip(costs, passes.reduced, strict=True):
        said = predict(prices, one.counts, one.seen, passes.grid)
        rows_found.append(
            {"tokens": grid, "FLOPs": wanted, "predicted": said, "measured": one.ratio, "error": said / one.ratio - 1}
        )
    return prices, rows_found


def _some(batch: dict[str, Tensor], count: int = 8) -> dict[str, Tensor]:
    """About ``count`` inputs of the batch, evenly spread, because rows may be sorted by length."""
    step = max(1, len(next(iter(batch.values()))) // count)
    return {key: value[::step] for key, value in batch.items()}


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--model", choices=list(BATCHES), nargs="+", default=list(BATCHES))
    parser.add_argument("--cost", type=float, nargs="+", default=[0.85, 0.7, 0.55, 0.4, 0.3], help="fractions of FLOPs")
    parser.add_argument("--batch", type=int, help="inputs per pass (default: 64, 8 and 16)")
    parser.add_argument("--quick", action="store_true", help="three rounds, a quarter of the inputs: about a minute")
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="measure processor time of one thread instead of wall time, for a shared machine",
    )
    args = begin(parser)
    if args.cpu_clock:
        torch.set_num_threads(1)
    args.clock = Clock(wall=time.process_time) if args.cpu_clock else CLOCK
    if args.quick:
        args.rounds = 3
    rows = []
    for name in args.model:
        batch = args.batch or BATCHES[name]
        backbone, inputs = build(name, batch // 4 if args.quick else batch)
        console.print(name)
        found = measure_one(backbone, inputs, args.cost, args.rounds, args.clock)[1]
        rows += [{"model": name, "batch": inputs.rows, **row} for row in found]
    errors = [abs(row["error"]) for row in rows]
    usual, worst = median(errors), max(errors)
    console.print(
        f"median error {usual:.1%} (goal: {USUAL:.0%}), worst {worst:.1%} (goal: {WORST:.0%}): "
        + ("met" if usual <= USUAL and worst <= WORST else "not met")
    )
    del args.clock  # not a setting to store
    finish(args, build("embedded", 1)[0], rows, median=usual, worst=worst)


if __name__ == "__main__":
    main()
