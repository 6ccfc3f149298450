"""Measurements of each case: those of the other benchmarks, with the models and on the device of this one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch

from benchmarks import attach_overhead, decision_overhead, prices, speedup
from benchmarks.gpu.cases import Case
from benchmarks.paired import Contender, abba
from benchmarks.replay import Replay
from rltr.check.proof import prove
from rltr.check.sample import random_inputs
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.selectors import KeepAll, Selector
from rltr.selectors.reduced_model import ReducedModel

SHARES = (0.5, 0.25)
COSTS = (1.0, 0.7, 0.5, 0.3)
PRICED = (0.85, 0.7, 0.55, 0.4, 0.3)
DECISIONS = 0.02
"""Goal for the time of decisions as a fraction of the native time, the same as for a ViT-S on a CPU."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A measurement of a case.

    Attributes:
        measure: measures a case with a number of rounds, and returns rows.
        passes: expected duration in native passes, for a number of rounds.
    """

    measure: Callable[[Case, int], Rows]
    passes: Callable[[int], int]


def attach_overheads(case: Case, rounds: int) -> Rows:
    """Time of a pass that keeps all tokens, over the native time."""
    return [attach_overhead.measure_one(case.backbone, case.inputs, rounds)]


def speedups(case: Case, rounds: int) -> Rows:
    """Speed-up against the prediction by FLOPs, at each fraction of kept tokens, merging and dropping."""
    start = case.backbone.depth // 4
    return [
        speedup.measure_one(case.backbone, case.inputs, share, removal, rounds, start)
        for share in SHARES
        for removal in get_args(Removal)
    ]


def decision_costs(case: Case, rounds: int) -> Rows:
    """Cost of decisions, measured in two ways.

    The parts are timed inside the pass, with a device synchronisation around each. That slows the pass down, so their
    sum is an upper bound. "pass / repeated" is the time of the pass over that of one that replays its choices: the cost
    of policy and features, with no timer inside.
    """
    rows = []
    for cost in COSTS:
        reduced = decision_overhead.reduced_to(cost, case.backbone, case.inputs)
        found = decision_overhead.measure_one(case.backbone, case.inputs, reduced, cost, rounds, DECISIONS)
        reduce = reduced.reduce
        with torch.inference_mode(), case.backbone.attached():
            _, trace = reduce(case.inputs)
        repeated = ReducedModel(case.backbone, Replay.of(trace), reduce.layers, reduce.removal)
        whole, bare = (Contender(partial(one, case.inputs), case.backbone.attached) for one in (reduce, repeated))
        ratio, interval = abba(whole, bare, case.backbone.device, rounds).ratio
        rows.append({**found, "pass / repeated": ratio, "its 95 %": interval})
    return rows


def price_errors(case: Case, rounds: int) -> Rows:
    """Predicted against measured relative times of passes that the prices were not fitted to."""
    longest = {name: value[:1] for name, value in case.inputs.items()}
    cost, rows = prices.measure_one(case.backbone, prices.Inputs(longest, case.inputs), PRICED, rounds)
    assert cost.fit is not None
    more = {"fit, median": cost.fit.median_error, "fit, worst": cost.fit.worst_error, "disagreement": cost.disagreement}
    return [{**row, **more} for row in rows]


def peak_memory(case: Case, rounds: int) -> Rows:
    """Peak memory of passes: native, all tokens kept, and smaller fractions kept; accelerators only."""
    device, start = case.backbone.device, case.backbone.depth // 4
    masks = [speedup.random_mask(case.batch, case.tokens, share, False).to(device) for share in SHARES]
    selectors: list[tuple[str, Selector]] = [
        ("everything kept", KeepAll()),
        *((f"{share:.0%} merged", Replay([mask])) for share, mask in zip(SHARES, masks, strict=True)),
    ]
    native = _peak(Contender(partial(case.backbone.model, **case.backbone.uncached(case.inputs))), device)
    rows = [{"pass": "native", "peak MB": native, "peak / native": 1.0}]
    for name, selector in selectors:
        reduce = ReducedModel(case.backbone, selector, [start], "merge")
        peak = _peak(Contender(partial(reduce, case.inputs), case.backbone.attached), device)
        rows.append({"pass": name, "peak MB": peak, "peak / native": peak / native})
    return rows


def _peak(contender: Contender, device: torch.device) -> float:
    """Peak memory during a call, in MB, including weights and inputs."""
    with torch.inference_mode(), contender.attached():
        contender.call()
        torch.accelerator.reset_peak_memory_stats(device)
        contender.call()
    return torch.accelerator.max_memory_allocated(device) / 2**20


def check_exact(backbone: Backbone, attention: str, rows: int, longest: int) -> Rows:
    """Check that a whole model is exact with one attention backend; see :class:`rltr.check.proof.Proof`."""
    again = Backbone(backbone.model, attention=attention)  # type: ignore[arg-type] # one of BACKENDS
    layers = tuple(range(again.depth))
    proof = prove(again, random_inputs(again, rows, longest), layers)
    return [
        {
            "attention": attention,
            "kept": proof.kept,
            "dropped": proof.dropped,
            "merged": proof.merged,
            "alone": proof.alone,
            "allowed": proof.tolerance,
            "restored": proof.restored,
            "met": proof.holds,
        }
    ]


PARTS: dict[str, Part] = {
    "attach overhead": Part(attach_overheads, lambda rounds: 4 * rounds + 4),
    "speed-up": Part(speedups, lambda rounds: 4 * (4 * rounds + 3)),
    "decisions": Part(decision_costs, lambda rounds: 4 * (8 * rounds + 10)),
    "prices": Part(price_errors, lambda rounds: 150),
    "memory": Part(peak_memory, lambda rounds: 8),
}
"""Measurements by name, in the order in which they run."""
