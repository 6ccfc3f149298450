"""Search for the best start of a training: features first, then decision layers, removal and strengths."""

import logging
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from rltr.envs.build import default_layers
from rltr.errors import RltrError
from rltr.probe.curve import TradeOff, levels
from rltr.probe.race import Tried, race
from rltr.probe.start import Start, other_removal, other_schedules, other_strengths, single_features
from rltr.probe.trials import Rule, Trials
from rltr.runtime.backbone import Backbone
from rltr.selectors import baseline

log = logging.getLogger(__name__)

RULES = ("redundancy", "cls_attention", "uniform", "random")
"""Rules that are compared with the best start."""
FEW = 48
"""Inputs of the first round of each race."""
SHOWN = 6
"""Rows of the tables of starts and rules."""
LOOKED_AT = (0.8, 0.65, 0.5, 0.4, 0.3)
"""Relative costs in the table of losses."""


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        best: the best start, measured on the whole sample.
        rule: the best rule, measured on the whole sample.
        starts: measurements of all starts, in order.
        rules: measurements of all rules, in order.
        losses: the losses of score at which trade-offs are compared.
        passes: number of inputs that were run, each counted once per reduced pass.
    """

    best: Tried[Start]
    rule: Tried[Rule]
    starts: tuple[Tried[Start], ...]
    rules: tuple[Tried[Rule], ...]
    losses: tuple[float, ...]
    passes: int

    def tables(self) -> list[Table]:
        """Return the best starts, the best rules, and both trade-offs, as tables to print."""
        whole = max(one.inputs for one in self.starts)
        ranked = Table("start", "mean cost", "inputs", title="Starts of a training", title_justify="left")
        for one in sorted(self.starts, key=lambda one: (-one.inputs, one.value))[:SHOWN]:
            ranked.add_row(str(one.candidate), f"{one.value:.3f}", str(one.inputs))
        rules = Table("rule", "mean cost", "inputs", title="Rules", title_justify="left")
        for rule in sorted(self.rules, key=lambda one: (-one.inputs, one.value))[:SHOWN]:
            rules.add_row(str(rule.candidate), f"{rule.value:.3f}", str(rule.inputs))
        lost = Table("cost", "best start loses", "best rule loses", title="Loss of score", title_justify="left")
        for cost in LOOKED_AT:
            lost.add_row(f"{cost:.2f}", *(f"{curve.loss_at(cost):.4f}" for curve in (self.best.curve, self.rule.curve)))
        lost.caption = f"{whole} training inputs; costs are relative to the dense model's"
        return [ranked, rules, lost]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "start": {**self.best.candidate.to_dict(), "mean_cost": self.best.value, **_points(self.best.curve)},
            "rule": {"rule": str(self.rule.candidate), "mean_cost": self.rule.value, **_points(self.rule.curve)},
            "starts": [
                {**one.candidate.to_dict(), "mean_cost": one.value, "inputs": one.inputs} for one in self.starts
            ],
            "rules": [{"rule": str(one.candidate), "mean_cost": one.value, "inputs": one.inputs} for one in self.rules],
            "losses": list(self.losses),
            "passes": self.passes,
        }


def probe(trials: Trials) -> Probe:
    """Measure starts and rules on a sample of training inputs, and return the best of each.

    Starts are searched in one direction after another: which features help, at which layers to decide, whether to merge
    or drop, and how strong each feature is. Each candidate is measured on a few inputs first. Candidates are
    compared by the mean cost at which they lose as much as parts of what random choice loses at half of the cost, so
    the comparison does not depend on the scale of the score.

    Args:
        trials: the sample, the backbone and the cost model.
    """
    depth, whole = trials.backbone.depth, len(trials.index)
    rounds = (FEW, whole) if whole > FEW else (whole,)
    first = Start(default_layers(depth))
    losses = levels(trials.of_rule(Rule("random", first.layers, first.removal), whole))
    best, starts = race(single_features(first), trials.of_start, losses, rounds)
    for alternatives in (
        lambda start: other_schedules(start, depth),
        other_removal,
        other_strengths,
        other_strengths,
    ):
        known = {one.candidate for one in starts}
        new = [start for start in alternatives(best.candidate) if start not in known]
        best, tried = race(new, trials.of_start, losses, rounds, best)
        starts += tried
        log.info("mean cost %.3f with %s", best.value, best.candidate)
    rule, rules = race(_rules(trials.backbone, best.candidate), trials.of_rule, losses, rounds)
    log.info("mean cost %.3f with the best rule: %s", rule.value, rule.candidate)
    return Probe(best, rule, tuple(starts), tuple(rules), losses, trials.passes)


def _rules(backbone: Backbone, best: Start) -> list[Rule]:
    """Every rule at the best start's layers and before every layer from 1 on, merging and dropping where possible."""
    found = []
    for name in RULES:
        selector = baseline(name, 1.0)
        for layers in dict.fromkeys((best.layers, tuple(range(1, max(backbone.depth - 1, 2))))):
            try:
                selector.check(backbone, layers)
            except RltrError:
                continue  # CLS attention before layer 0, where nothing has attended yet
            found += [Rule(name, layers, removal) for removal in selector.modes]
    return found


def _points(curve: TradeOff) -> dict[str, Any]:
    return {"costs": list(curve.costs), "losses": list(curve.losses), "weights": list(curve.weights)}
