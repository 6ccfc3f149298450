"""Collect quality, cost and time of one operating point, or of the dense model, batch by batch, and summarise them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rltr.cost import CostModel, dense
from rltr.evaluate.points import Measurement, OperatingPoint, View
from rltr.evaluate.resampling import pack
from rltr.evaluate.statistics import median_ratio, quality_change_interval, quality_interval
from rltr.runtime.decision import Trace
from rltr.tasks.goals.goal import Answers, Goal, Labels, PerRow


def reduced_cost(cost: CostModel, trace: Trace, depth: int) -> Float[Tensor, " rows"]:
    """Cost of a reduced pass for each row: layers and decisions, each at the number of tokens it gets."""
    counts = trace.counts_per_layer(depth).to(torch.float64)
    total = torch.stack([cost.layer(layer, counts[layer]) for layer in range(depth)]).sum(0)
    for stage in range(len(trace.layers)):
        total = total + cost.decision(trace.present[stage].sum(-1).cpu().to(torch.float64))
    return total


@dataclass
class Tally:
    """Results of one operating point, or of the native model, so far."""

    seconds: list[float] = field(default_factory=list)
    references: list[float] = field(default_factory=list)
    qualities: list[PerRow] = field(default_factory=list)
    agreements: list[PerRow] = field(default_factory=list)
    kept: list[Float[Tensor, " layers"]] = field(default_factory=list)
    grid: int = 0
    flops: float = 0.0
    dense_flops: float = 0.0
    predicted: float | None = None
    dense_predicted: float = 0.0
    views: dict[int, View] = field(default_factory=dict)
    layers: list[int] = field(default_factory=list)

    @property
    def quality(self) -> NDArray[np.float64]:
        """Quality of every answer so far."""
        return torch.cat(self.qualities).double().numpy()

    @property
    def agreement(self) -> NDArray[np.float64]:
        """Agreement with the native model's answer for every input so far, 0 to 1."""
        return torch.cat(self.agreements).double().numpy()

    def answer(self, goal: Goal, dense: Answers, answers: Answers, labels: Labels) -> None:
        """Add the quality of the answers to a batch, and their agreement with the native model's (``dense``)."""
        self.qualities.append(goal.quality(dense, answers, labels))
        self.agreements.append(goal.agreement(dense, answers))

    def spend(self, trace: Trace, depth: int, flops: CostModel, latency: CostModel | None) -> None:
        """Add tokens and costs of a batch. The native model pays for the full grid, as it computes padding."""
        rows = trace.present.shape[1]
        self.grid += rows * trace.grid
        self.layers = list(trace.layers)
        self.kept.append(trace.counts_per_layer(depth).sum(1).cpu().to(torch.float64))
        self.flops += float(reduced_cost(flops, trace, depth).sum())
        self.dense_flops += rows * dense(flops, depth, trace.grid)
        if latency is not None:
            reduced = float(reduced_cost(latency, trace, depth).sum()) + rows * latency.outside(trace.grid)
            self.predicted = (self.predicted or 0.0) + reduced
            self.dense_predicted += rows * latency.native_pass(trace.grid)

    def view(
        self, point: OperatingPoint, trace: Trace, said: Sequence[str | None], index: range, shown: Sequence[int]
    ) -> None:
        """Record kept tokens and answers (``said``) of those examples of a batch (``index``) that the gallery shows."""
        for example in sorted(set(shown) & set(index)):
            row = example - index.start
            self.views[example] = View(
                method=point.method,
                removal=point.removal,
                setting=point.setting,
                answer=said[row],
                quality=float(self.qualities[-1][row]),
                layers=list(trace.layers),
                present=["".join("01"[kept] for kept in stage.tolist()) for stage in trace.present[:, row]],
            )


def summarise(point: OperatingPoint, tally: Tally, native: Tally, rows: int, seed: int) -> Measurement:
    """Compute the reported numbers of one operating point.

    Args:
        point: the operating point.
        tally: its results over the whole split.
        native: the native model's results over the same examples in the same order.
        rows: inputs per timed pass.
        seed: seed of the resampling behind intervals.
    """
    quality = tally.quality
    ratio, interval = median_ratio(tally.seconds, tally.references)
    median = float(np.median(tally.seconds))
    return Measurement(
        method=point.method,
        removal=point.removal,
        setting=point.setting,
        parameter=point.parameter,
        quality=float(quality.mean()),
        quality_interval=quality_interval(quality, seed=seed),
        quality_change=float(quality.mean() - native.quality.mean()),
        quality_change_interval=quality_change_interval(quality, native.quality, seed=seed),
        agreement=float(tally.agreement.mean()),
        agreement_interval=quality_interval(tally.agreement, seed=seed),
        flops=tally.flops / tally.dense_flops,
        latency=ratio,
        latency_interval=interval,
        milliseconds=1000 * median / rows,
        throughput=rows / median,
        kept=(torch.stack(tally.kept).sum(0) / len(quality)).tolist(),
        predicted=None if tally.predicted is None else tally.predicted / tally.dense_predicted,
        layers_label=point.layers_label,
        layers=tally.layers,
        per_input=pack(quality),
    )
