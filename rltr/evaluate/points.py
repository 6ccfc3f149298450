"""What is measured, and what is known about it afterwards."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from torch import Tensor
from transformers.utils.generic import ModelOutput

from rltr.cost import CostModel
from rltr.evaluate.statistics import Interval
from rltr.runtime.decision import Trace

POLICY = "policy"
"""The method name of a learned policy: highlighted in plots, shown in the gallery, compared with all others."""
UNTRAINED = "untrained policy"
"""The method name of the same policy before training: what it is below the policy, was learned."""


def series_name(method: str, removal: str, layers_label: str = "") -> str:
    """Name of the curve to which a point belongs.

    ``tome (merge)``, or only ``none`` where nothing can be dropped, or ``norm (merge), layers 1 2`` with a label.
    """
    name = method if removal == "none" else f"{method} ({removal})"
    return f"{name}, {layers_label}" if layers_label else name


@dataclass(frozen=True)
class OperatingPoint:
    """One way to run the reduced model: a method at one value of its control parameter."""

    method: str
    """Name of the selector; :data:`POLICY` for the learned one."""
    removal: str
    """What happens to dropped tokens: ``merge``, ``drop``, or ``none``."""
    setting: float
    """Value of the control parameter."""
    reduce: Callable[[Mapping[str, Tensor]], tuple[ModelOutput, Trace]]
    """The reduced forward, timed as a whole: selector, packing and unpacking included."""
    parameter: str = "keep rate"
    """Name of the control parameter: ``keep rate`` or ``cost weight``."""
    attached: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered before and left after the timed call: attaching costs no time, and the native model runs as it is."""
    flops: CostModel | None = None
    """FLOPs with this selector's own cost in ``decision``; the sweep's if None."""
    latency: CostModel | None = None
    """Measured table with this selector's own cost in ``decision``, to predict the latency; None for no forecast."""
    layers_label: str = ""
    """Its decision layers in words, where the same method runs with others, too: those are another curve."""

    @property
    def series(self) -> str:
        """Name of the curve to which this point belongs."""
        return series_name(self.method, self.removal, self.layers_label)


@dataclass(frozen=True)
class Measurement:
    """What one operating point did on the whole split. Ratios are relative to the native model in the same run.

    The native model is run as its user runs it: on whole batches, padding included.
    """

    method: str
    """Name of the selector; :data:`POLICY` for the learned one."""
    removal: str
    """What happens to dropped tokens: ``merge``, ``drop``, or ``none``."""
    setting: float
    """Value of the control parameter."""
    parameter: str
    """Name of the control parameter: ``keep rate`` or ``cost weight``."""
    quality: float
    """Mean quality of the answers, at most 1: the share of right ones, where the evaluation's quality is accuracy."""
    quality_interval: Interval | None
    """Lower and upper end of its 95 % interval over inputs; None if there is none."""
    quality_change: float
    """Quality minus the native model's on the same inputs; negative means worse."""
    quality_change_interval: Interval | None
    """From paired differences, so it is narrower than two intervals of qualities suggest."""
    agreement: float
    """Share of the native model's answers that this one gives, too, right or wrong."""
    flops: float
    """FLOPs relative to the native model, the selector's own included."""
    latency: float
    """Median of paired time ratios: 0.5 takes half the native time, above 1 is slower than no pruning."""
    latency_interval: Interval | None
    """Its 95 % interval over batches; None with fewer than six batches."""
    milliseconds: float
    """Median wall time per input."""
    throughput: float
    """Inputs per second at the median time."""
    kept: list[float]
    """Mean tokens per input in each layer."""
    predicted: float | None = None
    """Relative latency that the table of the latency cost model predicted; None without such a table."""
    layers_label: str = ""
    """Its decision layers in words, where the same method was measured with others, too."""
    layers: list[int] = field(default_factory=list)
    """Its decision layers."""
    agreement_interval: Interval | None = None
    """Its 95 % interval over inputs; None if there is none."""
    per_input: str = ""
    """Quality of the answer to each input (:func:`rltr.evaluate.resampling.unpack`); empty where it is unknown."""

    @property
    def series(self) -> str:
        """Name of the curve to which this point belongs."""
        return series_name(self.method, self.removal, self.layers_label)

    @property
    def slower(self) -> bool:
        """Whether this point takes more time than the native model."""
        return self.latency > 1

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured relative latency, minus 1."""
        return None if self.predicted is None else self.predicted / self.latency - 1


@dataclass(frozen=True)
class View:
    """Which tokens one operating point kept of one input."""

    method: str
    removal: str
    setting: float
    answer: str | None
    """In a word; None for answers that one word does not tell."""
    quality: float
    layers: list[int]
    """The decision layers."""
    present: list[str]
    """Per stage, before the first decision and after each, a string of ``1`` (still there) and ``0``, one per token."""


@dataclass(frozen=True)
class Shown:
    """One input of the gallery."""

    example: int
    """Index in the split."""
    name: str
    label: str | None
    """In a word, like the answers."""
    dense_answer: str | None
    dense_quality: float
    views: list[View]
