"""Operating points, the input of an evaluation, and their measurements, its output."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from torch import Tensor
from transformers.utils.generic import ModelOutput

from rltr.cost import CostModel
from rltr.evaluate.statistics import Interval
from rltr.runtime.decision import Trace

POLICY = "policy"
"""Method name of the learned policy, which plots, gallery and comparisons single out."""
UNTRAINED = "untrained policy"
"""Method name of the same policy before training. Its distance to the trained policy shows what was learned."""


def series_name(method: str, removal: str, layers_label: str = "") -> str:
    """Name of the curve to which a point belongs.

    For example ``tome (merge)``, ``norm (merge), layers 1 2`` with a label, or ``none`` for keeping every token.
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
    """Runs the reduced forward pass. It is timed as a whole, including selector, packing and unpacking."""
    parameter: str = "keep rate"
    """Name of the control parameter: ``keep rate`` or ``cost weight``."""
    attached: Callable[[], AbstractContextManager[object]] = nullcontext
    """Context around the timed call. Attaching is not timed, and native passes run on the detached model."""
    flops: CostModel | None = None
    """FLOPs with this selector's own cost in ``decision``; None for the cost model given to ``measure``."""
    latency: CostModel | None = None
    """Latency table with this selector's own cost in ``decision``, to predict the latency; None for no prediction."""
    layers_label: str = ""
    """Names the decision layers if the same method also runs with others, which are another curve."""

    @property
    def series(self) -> str:
        """Name of the curve to which this point belongs."""
        return series_name(self.method, self.removal, self.layers_label)


@dataclass(frozen=True)
class Measurement:
    """Results of one operating point on the whole split. Ratios are relative to the native model in the same run.

    The native model runs as its users run it: on whole batches, padding included.
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
    """Mean quality of the answers, at most 1: the fraction of right answers if the metric is accuracy."""
    quality_interval: Interval | None
    """Lower and upper end of its 95 % interval over inputs; None if there is none."""
    quality_change: float
    """Quality minus the native model's on the same inputs; negative means worse."""
    quality_change_interval: Interval | None
    """95 % interval of ``quality_change``. From paired differences, so narrower than two separate ones."""
    agreement: float
    """Fraction of answers that equal the native model's, right or wrong."""
    flops: float
    """FLOPs relative to the native model, the selector's own included."""
    latency: float
    """Median of paired time ratios: 0.5 means half the native time, above 1 means slower than no pruning."""
    latency_interval: Interval | None
    """Its 95 % interval over batches; None with fewer than six batches."""
    milliseconds: float
    """Median wall time per input."""
    throughput: float
    """Inputs per second at the median time."""
    kept: list[float]
    """Mean tokens per input in each layer."""
    predicted: float | None = None
    """Relative latency predicted by the latency table; None without a table."""
    layers_label: str = ""
    """Names the decision layers if the same method was also measured with others."""
    layers: list[int] = field(default_factory=list)
    """Decision layers."""
    agreement_interval: Interval | None = None
    """Its 95 % interval over inputs; None if there is none."""
    per_input: str = ""
    """Packed quality of the answer to each input (see :func:`rltr.evaluate.resampling.unpack`); empty if unknown."""

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
    """Tokens that one operating point kept of one input, and its answer."""

    method: str
    removal: str
    setting: float
    answer: str | None
    """Readable answer, for example a class name; None if it has no short form."""
    quality: float
    layers: list[int]
    """The decision layers."""
    present: list[str]
    """One string per stage (before the first decision, then after each): per token ``1`` if still there, else ``0``."""


@dataclass(frozen=True)
class Shown:
    """One input of the gallery."""

    example: int
    """Index in the split."""
    name: str
    label: str | None
    """Readable label, as ``View.answer``."""
    dense_answer: str | None
    dense_quality: float
    views: list[View]
