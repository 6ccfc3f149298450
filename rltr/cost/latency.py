"""Measured time of layers, decisions and whole passes on the current device.

The time of one row in a batch cannot be measured, and single timings are noisy. So each kind of layer is timed at a few
token counts, and rewards use curves fitted to these times. The curves are then compared with the times of whole passes
(:mod:`rltr.cost.scaling`), and ``rltr.evaluate`` reports how well they predict.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor

from rltr.cost.curve import Curve, fit
from rltr.cost.layer_work import arguments, layer_kind, layer_task
from rltr.cost.model import dense
from rltr.cost.passes import Fit
from rltr.cost.rounds import CLOCK, Clock, busy, rounds
from rltr.cost.serialization import dump, restore
from rltr.cost.table import Table
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.system.files import atomic_write, from_here
from rltr.system.former_names import LATENCY_FIT, present_names
from rltr.system.machine import Machine
from rltr.system.reading import LARGEST_CONFIG, read_regular, strict_json
from rltr.system.timing import torch_threads


@dataclass(frozen=True)
class LatencyCost:
    """Seconds per row, from curves measured on ``machine`` in batches of ``rows`` rows.

    Create one with :meth:`measure`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: ClassVar[str] = "latency"
    """See :class:`CostModel`."""
    unit: ClassVar[str] = "seconds"
    """See :class:`CostModel`."""

    machine: Machine
    """Where it was measured."""
    rows: Annotated[int, Field(ge=1)]
    """Rows per batch during the measurement."""
    date: str
    """When it was measured (UTC, ISO 8601)."""
    layers: tuple[str, ...]
    """The kind of each layer (:func:`layer_kind`)."""
    tables: dict[str, Curve | Table]
    """Seconds per row of each kind of layer. Earlier versions wrote a :class:`Table`, which is still read."""
    overhead: Curve | Table | None = None
    """Seconds per row of one decision; None if it was not measured, and then counted as 0."""
    outside_per_token: Annotated[float, Field(ge=0)] = 0.0
    """Seconds per input token outside of layers and decisions: embedding and head."""
    native: Annotated[float, Field(gt=0)] = 1.0
    """Measured time of the layers of a native pass, relative to the curves' prediction; its kernels differ."""
    fit: Fit | None = None
    """How well the times of whole passes are predicted; None if none were measured."""
    busy: str | None = None
    """Sign that other processes used the machine during the measurement, such as the load; None without a sign."""
    disagreement: Annotated[float, Field(ge=0)] = 0.0
    """Relative disagreement of repeated timings (:attr:`rltr.cost.rounds.Rounds.disagreement`)."""

    @classmethod
    def measure(
        cls,
        backbone: Backbone,
        tokens: int,
        rows: int,
        decision: Callable[[int], object] | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        points: int = 8,
        passes: int = 5,
        threads: int | None = None,
        limit: float = 20.0,
        clock: Clock = CLOCK,
    ) -> "LatencyCost":
        """Time every kind of layer, and decisions, at ``points`` token counts from 1 to ``tokens``.

        It takes about ``passes * points / n`` native passes of one batch, with ``n`` layers of each kind, and more if
        rounds disagree.

        Args:
            backbone: the model, on the device and with the dtype of later use.
            tokens: the largest number of tokens of a row, at least 2.
            rows: rows per batch, as in later use; the time per row depends on it.
            decision: ``decision(n)`` makes one whole decision (selector, redundancy, merging, packing) for ``rows``
                rows of ``n`` tokens. Without it decisions are counted as free.
            inputs: model inputs of one row with ``tokens`` tokens. They show which arguments layers get in addition to
                hidden states (rotary embeddings, positions). Without it layers are called with hidden states alone.
            points: number of token counts, evenly spaced.
            passes: minimum number of rounds over all counts, layers and decisions; the fastest one counts.
            threads: intra-op threads; by default as many as torch uses now.
            limit: seconds after which rounds that disagree are not repeated.
            clock: replaced in tests.

        Raises:
            RltrError: if ``tokens`` is below 2 or ``rows`` below 1.
        """
        if tokens < 2 or rows < 1:
            raise RltrError(f"a latency table needs at least 2 tokens and 1 row, got tokens={tokens} and rows={rows}")
        called = {} if inputs is None else arguments(backbone, inputs)
        machine = Machine.here(backbone.device, backbone.dtype, threads)
        counts = sorted({round(count) for count in np.linspace(1, tokens, points)})
        kinds = tuple(layer_kind(layer) for layer in backbone.layers)
        # One layer of each kind is timed.
        tasks: dict[str | None, Callable[[int], object]] = {
            kind: layer_task(layer, called.get(layer, {}), backbone, rows, tokens)
            for kind, layer in zip(reversed(kinds), reversed(backbone.layers), strict=True)
        }
        if decision is not None:
            tasks[None] = decision
        calls = [partial(task, count) for task in tasks.values() for count in counts]
        # Attached and outside of a reduced pass, models run on plain sdpa, whatever they are set to.
        with backbone.attached(), torch.no_grad(), torch_threads(machine.threads):
            found = rounds(calls, backbone.device, least=passes, limit=limit, clock=clock)
        seconds = iter(fastest / rows for fastest in found.fastest)
        curves = {kind: fit(counts, [next(seconds) for _ in counts]) for kind in tasks}
        overhead = curves.pop(None, None)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        tables: dict[str, Curve | Table] = {kind: curve for kind, curve in curves.items() if kind is not None}
        sign = busy(found, backbone.device, clock)
        return cls(machine, rows, date, kinds, tables, overhead, busy=sign, disagreement=found.disagreement)

    @property
    def longest(self) -> int:
        """Largest number of tokens with which every kind of layer was measured."""
        return min(table.longest for table in self.tables.values())

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def layer(self, layer: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row of one layer, extrapolated beyond the measured counts."""
        return self.tables[self.layers[layer]](counts)

    def decision(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row of one decision, extrapolated beyond the measured counts."""
        return torch.zeros_like(counts) if self.overhead is None else self.overhead(counts)

    def outside(self, grid: int) -> float:
        """Seconds per row of embedding and head."""
        return self.outside_per_token * grid

    def native_pass(self, grid: int) -> float:
        """Seconds per row of a whole native pass over ``grid`` tokens, padding included."""
        return self.outside(grid) + self.native * dense(self, self.depth, grid)

    def check(self, backbone: Backbone, threads: int | None = None) -> None:
        """Raise if the times do not hold for a model on its current device.

        Args:
            backbone: the model.
            threads: as in :meth:`measure`.

        Raises:
            RltrError: if layers, device, dtype or thread count differ from those measured.
        """
        kinds = tuple(layer_kind(layer) for layer in backbone.layers)
        if kinds != self.layers:
            raise RltrError(
                f"this latency table was measured for other layers: {_summary(self.layers)} there, {_summary(kinds)} "
                "here. Measure again for this model with LatencyCost.measure(…)"
            )
        self.machine.require(Machine.here(backbone.device, backbone.dtype, threads))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return dump(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "LatencyCost":
        """Rebuild from :meth:`to_dict`, on any machine; call :meth:`check` before using it for prices.

        Raises:
            RltrError: if ``data`` does not describe a latency table.
        """
        cost = restore(cls, _in_present_names(data))
        if missing := set(cost.layers) - set(cost.tables):
            raise RltrError(f"this latency table lacks the times of {', '.join(sorted(missing))}. Measure it again")
        return cost

    def save(self, path: Path) -> None:
        """Write it to a JSON file, atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path, backbone: Backbone, threads: int | None = None) -> "LatencyCost":
        """Read a file that :meth:`save` wrote, and :meth:`check` it.

        Raises:
            RltrError: if the file does not exist, is not a latency table, or does not hold for ``backbone``.
        """
        try:
            data = strict_json(read_regular(path, LARGEST_CONFIG))
        except ValueError as error:
            fix = "Write one with LatencyCost.save"
            raise RltrError(f"cannot read the latency table {from_here(path)}: {error}. {fix}") from error
        if not isinstance(data, dict) or data.get("name") != cls.name:
            raise RltrError(f"{path} is not a latency table. Write one with LatencyCost.save")
        cost = cls.from_dict(data)
        cost.check(backbone, threads)
        return cost


def _in_present_names(data: dict[str, Any]) -> dict[str, Any]:
    """``data`` with current field names, if an earlier version wrote it."""
    fit = data.get("fit")
    if not isinstance(fit, dict):
        return data
    return {**data, "fit": present_names(fit, LATENCY_FIT, "fit of the latency table")}


def _summary(kinds: Sequence[str]) -> str:
    return f"{len(kinds)} layers ({', '.join(sorted(set(kinds)))})"
