"""``rltr.check_backbone``: can rltr run your model exactly, and how fast? Run on the model itself, on this machine."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from rltr.check.proof import Proof, prove
from rltr.check.sample import random_inputs
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision
from rltr.runtime.families import FAMILIES, Family
from rltr.selectors import KeepAll, Selector
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.timing import timed

ROUNDS = 9
"""Times that each way of running the model is timed, in alternation."""


@dataclass(frozen=True)
class BackboneReport:
    """What :func:`rltr.check_backbone` found out about a model.

    Attributes:
        name: where the model came from: a hub id, a folder's name, or its class.
        model_type: transformers' name of its family.
        known: whether rltr's own tests cover this family.
        layers: class of the layers and how many there are, in words.
        tokens: the most and the fewest tokens that a row of the inputs had.
        protected: tokens of a row that never leave, on average.
        decision_layers: the layers before which tokens may leave: all of them.
        causal: whether tokens attend only to those before them.
        proof: the largest differences that were found, and what rounding allows.
        kept_time: time with everything kept, relative to native sdpa.
        half_time: time with half of the tokens from a quarter of the depth on, relative to native sdpa.
    """

    name: str
    model_type: str
    known: bool
    layers: str
    tokens: tuple[int, int]
    protected: float
    decision_layers: tuple[int, ...]
    causal: bool
    proof: Proof
    kept_time: float
    half_time: float

    @property
    def holds(self) -> bool:
        """Whether the model is exact with fewer tokens on this machine."""
        return self.proof.holds

    def table(self) -> Table:
        """The findings as a short table."""
        proof = self.proof
        table = Table("what", "found", title=f"{self.name} ({self.model_type})", title_justify="left")
        table.add_row("family", "proven by rltr's own tests" if self.known else "unknown to rltr, proven here only")
        table.add_row("layers", self.layers)
        table.add_row("decision layers possible", f"0 to {self.decision_layers[-1]}")
        table.add_row("tokens per row", " to ".join(map(str, sorted(set(self.tokens)))))
        table.add_row("of these protected", f"{self.protected:.3g}")
        table.add_row("attention", "causal" if self.causal else "to both sides")
        table.add_row("everything kept, against native", f"{proof.kept:.1e}")
        table.add_row("tokens dropped, against the reference", f"{proof.dropped:.1e}")
        table.add_row("tokens merged, against the reference", f"{proof.merged:.1e}")
        table.add_row("a row alone, against the same in a batch", f"{proof.alone:.1e}")
        table.add_row("rounding allows", f"{proof.tolerance:.1e}")
        table.add_row("after detaching", "identical" if proof.restored else "different")
        table.add_row("verdict", "exact" if self.holds else "not exact: do not use rltr with this model here")
        table.add_row("time, everything kept", f"{self.kept_time:.2f} of native")
        table.add_row("time, half of the tokens", f"{self.half_time:.2f} of native")
        return table


def check_backbone(
    model: PreTrainedModel | Backbone,
    inputs: Mapping[str, Tensor] | None = None,
    *,
    tower: str | None = None,
    family: Family | None = None,
) -> BackboneReport:
    """Prove that a model answers exactly with fewer tokens, and time it.

    With everything kept it must answer as the native model does. With tokens removed it must answer as a reference that
    shares no code with the runtime: the native model on all tokens, with the removed ones hidden from attention.

    In half precision, *exact* means as near to single precision as the native model is. A copy of the model in single
    precision is made for that, which takes three times its memory while the proof runs.

    Args:
        model: a model in evaluation mode, or a backbone.
        inputs: model inputs of at least two rows; None makes random ones of the model's shape. Where only a part is
            reduced they are for that part, which is then proven alone: the whole may want other inputs beside them.
        tower: the part whose tokens may leave; see :class:`rltr.Backbone`.
        family: a description of a model type that rltr does not know.

    Returns:
        What was found. ``report.holds`` says whether the model is exact.

    Raises:
        RltrError: if the model cannot be run reduced at all, or not on ``inputs`` (also where it stumbles on its way:
            the message says what it stumbled over), or ``inputs`` are fewer than two rows.
    """
    backbone = model if isinstance(model, Backbone) else Backbone(model, tower, family)
    name = backbone.name
    if inputs is None:
        if backbone.root is not backbone.model:
            backbone = Backbone(backbone.root, family=replace(backbone.family, tower=None))
        inputs = random_inputs(backbone, rows=4)
    quarter = backbone.depth // 4
    proof = prove(backbone, inputs, sorted({quarter, backbone.depth - 1}))
    protected = _Protected()
    with torch.no_grad():
        kept = ReducedModel(backbone, protected, [quarter], "drop")
        with backbone.attached():
            _, trace = kept(inputs)
        half = ReducedModel(backbone, _EverySecond(), [quarter], "drop")
        kept_time, half_time = _relative_times(backbone, inputs, [kept, half])
    counts = trace.stages[0].counts
    kinds = Counter(type(layer).__name__ for layer in backbone.layers)
    return BackboneReport(
        name=name,
        model_type=backbone.config.model_type,
        known=backbone.config.model_type in FAMILIES,
        layers=", ".join(f"{count} × {kind}" for kind, count in kinds.items()),
        tokens=(max(counts), min(counts)),
        protected=protected.count / len(counts),
        decision_layers=tuple(range(backbone.depth)),
        causal=backbone.family.causal,
        proof=proof,
        kept_time=kept_time,
        half_time=half_time,
    )


class _Protected(KeepAll):
    """Keeps everything, and counts what may not leave."""

    count = 0

    def __call__(self, decision: Decision) -> Choice:
        self.count = int(decision.protected.sum())
        return super().__call__(decision)


class _EverySecond(Selector):
    """Keeps every second token, at no cost of its own."""

    def __call__(self, decision: Decision) -> Choice:
        return Choice(decision.tokens.slot % 2 == 0)


def _relative_times(
    backbone: Backbone, inputs: Mapping[str, Tensor], reduced_models: list[ReducedModel]
) -> list[float]:
    """Median time of each reduced pass over that of the native one just before it."""
    native = partial(backbone.model, **backbone.uncached(inputs))
    ratios: list[list[float]] = [[] for _ in reduced_models]
    for _ in range(ROUNDS + 1):
        for reduced_model, found in zip(reduced_models, ratios, strict=True):
            _, before = timed(native, backbone.device)
            with backbone.attached():
                _, took = timed(partial(reduced_model, inputs), backbone.device)
            found.append(took / before)
    return [median(found[1:]) for found in ratios]  # the first round warms up
