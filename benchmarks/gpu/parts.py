"""What is measured of each case: the other benchmarks' measurements, on the device and with the models of this one."""

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
"""Goal for the decisions' share of the native time, as for a ViT-S on a CPU."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """Something that is measured of a case.

    Attributes:
        measure: gives rows, for a case and a number of rounds.
        passes: how many native passes it takes about as long as, for a number of rounds.
    """

    measure: Callable[[Case, int], Rows]
    passes: Callable[[int], int]


def attached(case: Case, rounds: int) -> Rows:
    """Everything kept over native."""
    return [attach_overhead.measure_one(case.backbone, case.inputs, rounds)]


def sped_up(case: Case, rounds: int) -> Rows:
    """Speed-up over what FLOPs promise, at each share, with dropped tokens merged and lost."""
    start = case.backbone.depth // 4
    return [
        speedup.measure_one(case.backbone, case.inputs, share, removal, rounds, start)
        for share in SHARES
        for removal in get_args(Removal)
    ]


def decided(case: Case, rounds: int) -> Rows:
    """What decisions cost, by two clocks.

    The parts are timed inside of the pass, waiting for the device around each, which the pass alone does not: they are
    an upper bound. "pass / repeated" is the pass over one that repeats its choices: policy and features, without any
    clock inside.
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


def priced(case: Case, rounds: int) -> Rows:
    """A latency table, and predicted against measured relative times of passes that it has not seen."""
    longest = {name: value[:1] for name, value in case.inputs.items()}
    cost, rows = prices.measure_one(case.backbone, prices.Inputs(longest, case.inputs), PRICED, rounds)
    assert cost.fit is not None
    more = {"fit, median": cost.fit.median_error, "fit, worst": cost.fit.worst_error, "disagreement": cost.disagreement}
    return [{**row, **more} for row in rows]


def remembered(case: Case, rounds: int) -> Rows:
    """Peak memory of passes, which torch counts on accelerators only: native, everything kept, less and less kept."""
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
    """The most memory that was in use during a call, in MB, weights and inputs included."""
    with torch.inference_mode(), contender.attached():
        contender.call()
        torch.accelerator.reset_peak_memory_stats(device)
        contender.call()
    return torch.accelerator.max_memory_allocated(device) / 2**20


def proven(backbone: Backbone, attention: str, rows: int, longest: int) -> Rows:
    """Is a whole model exact here, with uneven rows computed in one way? See :class:`rltr.check.proof.Proof`."""
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
    "attach overhead": Part(attached, lambda rounds: 4 * rounds + 4),
    "speed-up": Part(sped_up, lambda rounds: 4 * (4 * rounds + 3)),
    "decisions": Part(decided, lambda rounds: 4 * (8 * rounds + 10)),
    "prices": Part(priced, lambda rounds: 150),
    "memory": Part(remembered, lambda rounds: 8),
}
"""By name, in the order in which they are measured."""
