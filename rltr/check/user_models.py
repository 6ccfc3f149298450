"""``rltr.check_backbone``: check on this machine whether rltr can run a user's model exactly, and how fast."""

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
"""Number of timed runs of each variant of the model, in alternation."""


@dataclass(frozen=True)
class BackboneReport:
    """Result of :func:`rltr.check_backbone`.

    Attributes:
        name: where the model came from: a hub id, a folder's name, or its class.
        model_type: transformers' name of its family.
        known: whether rltr's own tests cover this family.
        layers: number and class of the layers, as text.
        tokens: most and fewest tokens of a row of the inputs.
        protected: average number of protected tokens per row.
        decision_layers: layers before which tokens can be removed: all of them.
        causal: whether attention is causal.
        proof: the differences that were found, and the tolerance.
        kept_time: time with every token kept, relative to the native model with sdpa.
        half_time: time with half of the tokens from a quarter of the depth on, relative to the native model with sdpa.
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
        """Return the result as a table."""
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

    For a model in half precision, *exact* means about as close to the same weights in single precision as the native
    model is. This needs a copy in single precision, so three times the model's memory in all.

    Args:
        model: a model in evaluation mode, or a backbone.
        inputs: model inputs of at least two rows; None makes random ones. If only a part of the model is reduced, the
            random ones are for that part, which is then checked alone.
        tower: the part to run on fewer tokens; see :class:`rltr.Backbone`.
        family: description of a model type that rltr does not know.

    Returns:
        The report; ``report.holds`` says whether the model is exact.

    Raises:
        RltrError: if the model cannot be run reduced, if a pass fails on ``inputs`` (the message has its error), or if
            ``inputs`` have fewer than two rows.
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
    """Keeps every token, and counts the protected ones."""

    count = 0

    def __call__(self, decision: Decision) -> Choice:
        self.count = int(decision.protected.sum())
        return super().__call__(decision)


class _EverySecond(Selector):
    """Keeps every second token, without computing anything."""

    def __call__(self, decision: Decision) -> Choice:
        return Choice(decision.tokens.slot % 2 == 0)


def _relative_times(
    backbone: Backbone, inputs: Mapping[str, Tensor], reduced_models: list[ReducedModel]
) -> list[float]:
    """Median of each reduced pass's time divided by that of the native pass before it."""
    native = partial(backbone.model, **backbone.uncached(inputs))
    ratios: list[list[float]] = [[] for _ in reduced_models]
    for _ in range(ROUNDS + 1):
        for reduced_model, found in zip(reduced_models, ratios, strict=True):
            _, before = timed(native, backbone.device)
            with backbone.attached():
                _, took = timed(partial(reduced_model, inputs), backbone.device)
            found.append(took / before)
    return [median(found[1:]) for found in ratios]  # the first round warms up
