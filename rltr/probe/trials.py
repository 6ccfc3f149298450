"""Run untrained policies and rules on a sample of training inputs, and measure loss of score and cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from rltr.cost import CostModel
from rltr.cost.pricing import Pricing
from rltr.dense import DenseAnswers
from rltr.envs.episodes import longest_row, typical_row
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.probe.curve import TradeOff
from rltr.probe.start import Start
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal
from rltr.selectors import Selector, baseline
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.device import move_inputs
from rltr.tasks import score

COSTS = (0.8, 0.6, 0.45, 0.33, 0.24)
"""Relative costs near which an untrained policy is measured."""
KEPT = (0.75, 0.5, 0.3, 0.15, 0.06)
"""Fractions of tokens that a rule keeps after its last decision."""
PILOT = 12
"""Inputs on which the cost weights that lead to these costs are found."""
PILOT_WEIGHTS = tuple(np.geomspace(1e-3, 1e3, 9).tolist())
"""Cost weights that are tried for that."""


@dataclass(frozen=True)
class Rule:
    """A baseline with its decision layers and removal.

    Attributes:
        name: name of the baseline.
        layers: the decision layers.
        removal: whether removed tokens are merged or dropped.
    """

    name: str
    layers: tuple[int, ...]
    removal: Removal

    def __str__(self) -> str:
        """Describe it in one line."""
        return f"{self.name}; layers {' '.join(map(str, self.layers))}; {self.removal}"


class Trials:
    """A sample of training inputs on which starts and rules are measured.

    Args:
        dense: the dense model's answers to the training examples; its backbone must not be attached.
        cost: the cost model.
        scoring: the score whose loss is measured, see :mod:`rltr.tasks.goals.scores`.
        inputs: number of inputs in the sample, drawn without replacement; at most all examples.
        rows: inputs per pass.
        seed: seed of the sample.

    Attributes:
        passes: number of inputs that were run so far, each counted once per reduced pass.
    """

    def __init__(
        self,
        dense: DenseAnswers,
        cost: CostModel,
        scoring: str = "fidelity",
        inputs: int = 192,
        rows: int = 64,
        seed: int = 0,
    ) -> None:
        self.backbone: Backbone = dense.backbone
        self.dense = dense
        self.cost = cost
        self.scoring = scoring
        self.rows = rows
        self.passes = 0
        self.typical = typical_row(self.backbone, dense.examples)
        self.grid = longest_row(self.backbone, dense.examples)
        self.index = torch.from_numpy(np.random.default_rng(seed).permutation(len(dense.examples))[:inputs])

    def of_start(self, start: Start, inputs: int) -> TradeOff:
        """Measure an untrained policy on the first ``inputs`` of the sample, at cost weights near :data:`COSTS`."""
        pricing = self._pricing(start.layers)
        network = self._network(start)
        pilot, index = self.index[:PILOT], self.index[:inputs]

        def at(weight: float, on: Tensor) -> tuple[float, float]:
            return self._run(Learned(network, pricing, weight), start.layers, start.removal, on)

        reached = [at(weight, pilot)[0] for weight in PILOT_WEIGHTS]
        # np.interp needs ascending costs; a higher weight never counts as more expensive.
        falling = np.minimum.accumulate(reached)
        weights = np.exp(np.interp(COSTS, falling[::-1], np.log(PILOT_WEIGHTS)[::-1])).tolist()
        weights = list(dict.fromkeys(weights))  # costs that cannot be reached have the same weight
        return TradeOff.of([at(weight, index) for weight in weights], weights)

    def of_rule(self, rule: Rule, inputs: int) -> TradeOff:
        """Measure a rule on the first ``inputs`` of the sample, with the same keep rate at each decision."""
        rates = [kept ** (1 / len(rule.layers)) for kept in KEPT]
        index = self.index[:inputs]
        return TradeOff.of([self._run(baseline(rule.name, rate), rule.layers, rule.removal, index) for rate in rates])

    def _pricing(self, layers: Sequence[int]) -> Pricing:
        return Pricing(self.cost, layers, self.backbone.depth, self.typical)

    def _network(self, start: Start) -> TokenPolicy:
        config = PolicyConfig(
            self.backbone.width,
            self.backbone.depth,
            self.grid,
            self.backbone.family.pooled,
            redundancy_prior=start.redundancy,
            attention_prior=start.attention,
            spread_prior=start.spread,
        )
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return TokenPolicy(config).to(self.backbone.device).eval().requires_grad_(False)

    def _run(
        self, selector: Selector, layers: Sequence[int], removal: Removal, index: Int[Tensor, " inputs"]
    ) -> tuple[float, float]:
        """Mean cost relative to the dense model's, and mean loss of score, of a reduced model on some inputs."""
        examples, pricing = self.dense.examples, self._pricing(layers)
        spent, whole, lost = 0.0, 0.0, 0.0
        reduced = ReducedModel(self.backbone, selector, layers, removal)
        for part in index.split(self.rows):
            dense = self.dense(part)
            inputs = move_inputs(examples.batch(part), self.backbone.device, self.backbone.dtype)
            with torch.no_grad(), self.backbone.attached():
                output, trace = reduced(inputs)
            answers = examples.goal.read(output, inputs).float().cpu()
            lost -= float(score(self.scoring, examples.goal, dense, answers, examples.labels[part]).sum())
            counts = [torch.tensor(stage.counts) for stage in trace.stages]
            spent += float(pricing.total(counts).sum())
            whole += float(pricing.dense(counts[0]).sum())
            self.passes += len(part)
        return spent / whole, lost / len(index)
