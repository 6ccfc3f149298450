"""Measured time of layers and decisions on the device in use.

A row's time inside a batch cannot be told from its neighbours', and single timings are noisy; so each kind of layer is
timed once, at a few token counts, and rewards read the table. ``rltr.evaluate`` times the real thing end to end and
reports how well the table foretold it.
"""

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from scipy.optimize import isotonic_regression
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from rltr.backbone import Backbone
from rltr.cost.machine import Machine
from rltr.cost.stored import dump, restore
from rltr.cost.table import Table
from rltr.errors import RltrError
from rltr.files import atomic_write, from_here
from rltr.layers import signature_of


@dataclass(frozen=True)
class LatencyCost:
    """Seconds per row, read from tables measured on ``machine`` in batches of ``rows``.

    Make one with :meth:`measure`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "seconds"

    machine: Machine
    rows: Annotated[int, Field(ge=1)]
    date: str
    """When it was measured (UTC, ISO 8601)."""
    layers: tuple[str, ...]
    """The kind of each layer (:func:`layer_kind`)."""
    tables: dict[str, Table]
    """Seconds per row of each kind of layer."""
    overhead: Table | None = None
    """Seconds per row of one decision; None where it was not measured, and then counted as 0."""

    @classmethod
    def measure(
        cls,
        backbone: Backbone,
        tokens: int,
        rows: int,
        decision: Callable[[int], object] | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        points: int = 8,
        passes: int = 3,
        threads: int | None = None,
    ) -> "LatencyCost":
        """Time every kind of layer of ``backbone`` (and a decision) at ``points`` token counts from 1 to ``tokens``.

        Takes about ``passes * points`` times as long as the dense model needs for one batch, over the number of layers
        that are alike.

        Args:
            backbone: its layers run as they are: own device, own data type, plain sdpa.
            tokens: the most tokens a row will ever have (at least 2).
            rows: rows per batch, as later in use; a batch of another size takes another time per row.
            decision: ``decision(n)`` makes one whole decision (selector, redundancy, merging, packing) for ``rows``
                rows of ``n`` tokens. Without it decisions are counted as free.
            inputs: of the model, one row with ``tokens`` tokens: shows what layers are called with beside hidden states
                (rotary factors, positions). Without it they are called with hidden states alone.
            points: token counts to measure at, evenly spaced.
            passes: rounds over all counts; the median counts. Rounds, because a machine's speed drifts.
            threads: threads within one operator; by default as many as torch uses now.
        """
        if tokens < 2 or rows < 1:
            raise RltrError(f"a latency table needs at least 2 tokens and 1 row, got tokens={tokens} and rows={rows}")
        called = {} if inputs is None else _arguments(backbone, inputs)
        machine = Machine.here(backbone.device, backbone.dtype, threads)
        counts = sorted({round(count) for count in np.linspace(1, tokens, points)})
        kinds = tuple(layer_kind(layer) for layer in backbone.layers)
        # One layer of each kind stands for all of them.
        tasks: dict[str, Callable[[int], object]] = {
            kind: _layer_task(layer, called.get(layer, {}), backbone, rows, tokens)
            for kind, layer in zip(reversed(kinds), reversed(backbone.layers), strict=True)
        }
        # Attached and outside of a reduced pass, models run on plain sdpa, whatever they are set to.
        with backbone.attached(), torch.no_grad():
            tables = {kind: _table(task, counts, rows, passes, machine.threads) for kind, task in tasks.items()}
            overhead = None if decision is None else _table(decision, counts, rows, passes, machine.threads)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(machine, rows, date, kinds, tables, overhead)

    @property
    def longest(self) -> int:
        """The most tokens that every kind of layer was measured with."""
        return min(table.counts[-1] for table in self.tables.values())

    @property
    def depth(self) -> int:
        """Number of layers that it prices."""
        return len(self.layers)

    def layer(self, layer: int, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row of one layer; beyond the measured counts the last piece of the curve goes on."""
        return self.tables[self.layers[layer]](counts)

    def decision(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row of one decision; beyond the measured counts the last piece of the curve goes on."""
        return torch.zeros_like(counts) if self.overhead is None else self.overhead(counts)

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
        cost = restore(cls, data)
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
            data = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            fix = "Write one with LatencyCost.save"
            raise RltrError(f"cannot read the latency table {from_here(path)}: {error}. {fix}") from error
        if not isinstance(data, dict) or data.get("name") != cls.name:
            raise RltrError(f"{path} is no latency table. Write one with LatencyCost.save")
        cost = cls.from_dict(data)
        cost.check(backbone, threads)
        return cost


def layer_kind(layer: nn.Module) -> str:
    """Layers of one kind take one time: same class, same names and shapes of parameters. Same string, same kind."""
    shapes = [f"{name}{tuple(parameter.shape)}" for name, parameter in layer.named_parameters()]
    return f"{type(layer).__name__}-{hashlib.sha256(' '.join(shapes).encode()).hexdigest()[:8]}"


def _summary(kinds: Sequence[str]) -> str:
    return f"{len(kinds)} layers ({', '.join(sorted(set(kinds)))})"


@torch.no_grad()
def _arguments(backbone: Backbone, inputs: Mapping[str, Tensor]) -> dict[nn.Module, dict[str, Any]]:
    """What each layer is called with beside hidden states and mask, in a native forward pass."""
    called: dict[nn.Module, dict[str, Any]] = {}

    def catch(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(signature_of(layer).parameters, args, strict=False)) | kwargs
        called[layer] = {name: value for name, value in named.items() if name != "hidden_states"}
        if "attention_mask" in named:
            called[layer]["attention_mask"] = None

    handles = [layer.register_forward_pre_hook(catch, with_kwargs=True) for layer in dict.fromkeys(backbone.layers)]
    try:
        backbone.model(**backbone.uncached(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return called


def _layer_task(
    layer: nn.Module, named: Mapping[str, Any], backbone: Backbone, rows: int, tokens: int
) -> Callable[[int], object]:
    """A function that runs one layer on the first ``n`` of ``tokens`` random hidden states per row."""
    # Made on the CPU, so that every device gets the same numbers.
    hidden = torch.randn(rows, tokens, backbone.width, generator=torch.Generator().manual_seed(0))
    hidden = hidden.to(backbone.device, backbone.dtype)
    patches = tokens - backbone.family.leading_tokens(backbone.config) if backbone.family.patches_only else None
    inputs: dict[int, tuple[Tensor, dict[str, Any]]] = {}

    def first(value: Any, count: int) -> Any:
        if isinstance(value, tuple):
            return tuple(first(part, count) for part in value)
        if not isinstance(value, Tensor) or value.ndim < 2:
            return value
        if patches is not None and len(value) == patches:
            return value[: max(0, count - (tokens - patches))]
        return value[:, :count] if value.shape[1] == tokens else value

    def run(count: int) -> object:
        if count not in inputs:
            inputs[count] = hidden[:, :count].contiguous(), {name: first(named[name], count) for name in named}
        states, others = inputs[count]
        return layer(states, **others)

    return run


def _table(task: Callable[[int], object], counts: Sequence[int], rows: int, passes: int, threads: int) -> Table:
    """Median seconds per row of ``task(count)`` at each count, smoothed so that more tokens are never cheaper."""
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(passes):
        for count in counts:
            timer = Timer("task(count)", globals={"task": task, "count": count}, num_threads=threads)
            # It warms up first, synchronises the device, and repeats short tasks until 10 ms are full.
            times[count].extend(timer.blocked_autorange(min_run_time=0.01).times)
    medians = [statistics.median(times[count]) / rows for count in counts]
    # Noise can make a larger count look cheaper; the closest non-decreasing curve leaves no such bargain.
    return Table(tuple(counts), tuple(isotonic_regression(medians).x.tolist()))
