"""Measured time of layers, decisions and whole passes on the device in use.

A row's time inside a batch cannot be told from its neighbours', and single timings are noisy; so each kind of layer is
timed at a few token counts, curves of three numbers are fitted, and rewards read these. Curves of parts are then held
against whole passes (:mod:`rltr.cost.scaling`), and ``rltr.evaluate`` reports how well they predict.
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
    """Seconds per row, by curves measured on ``machine`` in batches of ``rows``.

    Make one with :meth:`measure`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: ClassVar[str] = "latency"
    """See :class:`CostModel`."""
    unit: ClassVar[str] = "seconds"
    """See :class:`CostModel`."""

    machine: Machine
    """Where it was measured."""
    rows: Annotated[int, Field(ge=1)]
    """Rows per batch that it was measured with."""
    date: str
    """When it was measured (UTC, ISO 8601)."""
    layers: tuple[str, ...]
    """The kind of each layer (:func:`layer_kind`)."""
    tables: dict[str, Curve | Table]
    """Seconds per row of each kind of layer. Earlier versions wrote points, which are still read."""
    overhead: Curve | Table | None = None
    """Seconds per row of one decision; None where it was not measured, and then counted as 0."""
    outside_per_token: Annotated[float, Field(ge=0)] = 0.0
    """Seconds per token of the input that a pass takes outside of layers and decisions: embedding and head."""
    native: Annotated[float, Field(gt=0)] = 1.0
    """Measured time of a native pass's layers over what the curves predict: kernels differ for whole rows."""
    fit: Fit | None = None
    """How well it predicts the times of whole passes; None if it was not compared with any."""
    busy: str | None = None
    """Sign that other processes used the machine during the measurement, such as the load; None without a sign."""
    disagreement: Annotated[float, Field(ge=0)] = 0.0
    """How far repeats of the same work disagreed then, as a share (:attr:`rltr.cost.rounds.Rounds.disagreement`)."""

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
        """Time every kind of layer of ``backbone`` (and a decision) at ``points`` token counts from 1 to ``tokens``.

        Takes about ``passes * points`` times as long as the dense model needs for one batch, over the number of layers
        that are alike; more where rounds disagree, within bounds.

        Args:
            backbone: its layers run as they are: own device, own data type, plain sdpa.
            tokens: the most tokens a row will ever have (at least 2).
            rows: rows per batch, as later in use; a batch of another size takes another time per row.
            decision: ``decision(n)`` makes one whole decision (selector, redundancy, merging, packing) for ``rows``
                rows of ``n`` tokens. Without it decisions are counted as free.
            inputs: of the model, one row with ``tokens`` tokens: shows what layers are called with beside hidden states
                (rotary factors, positions). Without it they are called with hidden states alone.
            points: token counts to measure at, evenly spaced.
            passes: rounds over all counts, layers and decisions; the fastest of each counts.
            threads: threads within one operator; by default as many as torch uses now.
            limit: seconds after which rounds that disagree are not repeated any more.
            clock: replaced in tests.
        """
        if tokens < 2 or rows < 1:
            raise RltrError(f"a latency table needs at least 2 tokens and 1 row, got tokens={tokens} and rows={rows}")
        called = {} if inputs is None else arguments(backbone, inputs)
        machine = Machine.here(backbone.device, backbone.dtype, threads)
        counts = sorted({round(count) for count in np.linspace(1, tokens, points)})
        kinds = tuple(layer_kind(layer) for layer in backbone.layers)
        # One layer of each kind stands for all of them.
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
        """The most tokens that every kind of layer was measured with."""
        return min(table.longest for table in self.tables.values())

    @property
    def depth(self) -> int:
        """Number of layers that it prices."""
        return len(self.layers)

    def layer(self, layer: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row of one layer; beyond the measured counts the curve goes on."""
        return self.tables[self.layers[layer]](counts)

    def decision(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row of one decision; beyond the measured counts the curve goes on."""
        return torch.zeros_like(counts) if self.overhead is None else self.overhead(counts)

    def outside(self, grid: int) -> float:
        """Seconds per row of embedding and head."""
        return self.outside_per_token * grid

    def native_pass(self, grid: int) -> float:
        """Seconds per row of a whole native pass over ``grid`` tokens, padding included."""
        return self.outside(grid) + self.native * dense(self, self.depth, grid)

    def check(self, backbone: Backbone, threads: int | None = None) -> None:
        """Refuse to be used for another model or under other conditions than measured.

        Args:
            backbone: what the table is to be used with, where it is now.
            threads: as in :meth:`measure`.

        Raises:
            RltrError: if layers, device, data type or thread count differ; the message has both and the fix.
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
        """Rebuild from :meth:`to_dict`, on any machine (to show it, say): :meth:`check` before pricing anything.

        Raises:
            RltrError: if ``data`` is something else.
        """
        cost = restore(cls, _in_present_names(data))
        if missing := set(cost.layers) - set(cost.tables):
            raise RltrError(f"this latency table lacks the times of {', '.join(sorted(missing))}. Measure it again")
        return cost

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path, backbone: Backbone, threads: int | None = None) -> "LatencyCost":
        """Read what :meth:`save` wrote and :meth:`check` it.

        Raises:
            RltrError: if the file is not there or no latency table, or does not fit ``backbone`` where it is now.
        """
        try:
            data = strict_json(read_regular(path, LARGEST_CONFIG))
        except ValueError as error:
            fix = "Write one with LatencyCost.save"
            raise RltrError(f"cannot read the latency table {from_here(path)}: {error}. {fix}") from error
        if not isinstance(data, dict) or data.get("name") != cls.name:
            raise RltrError(f"{path} is no latency table. Write one with LatencyCost.save")
        cost = cls.from_dict(data)
        cost.check(backbone, threads)
        return cost


def _in_present_names(data: dict[str, Any]) -> dict[str, Any]:
    """A table of an earlier version with the names that its fields have now."""
    fit = data.get("fit")
    if not isinstance(fit, dict):
        return data
    return {**data, "fit": present_names(fit, LATENCY_FIT, "fit of the latency table")}


def _summary(kinds: Sequence[str]) -> str:
    return f"{len(kinds)} layers ({', '.join(sorted(set(kinds)))})"
