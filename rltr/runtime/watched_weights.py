"""Detect cheaply whether a model's weights were changed: by version counters and addresses, without reading values."""

from operator import attrgetter
from weakref import ref

import torch
from torch import Tensor, nn

PLAIN = (Tensor, nn.Parameter)
_version = attrgetter("_version")


class WatchedWeights:
    """Snapshot of where a model's weights are in memory and how often they were changed, to compare with later.

    Detected are changes that increase torch's version counter (``load_state_dict``, optimisers, in-place operations),
    new memory of a weight (``.to()``, ``.half()``, ``weight.data = …``), and deleted weights. Values are not read, so a
    detected change may have left them equal.

    Not detected are in-place writes through ``weight.data``, and to weights made in inference mode: torch does not
    count them. Nor is a weight replaced by another while the old tensor still exists; see
    :class:`rltr.runtime.changes.Changes` for those.

    Args:
        model: the model; all tensors in its state dict are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        # Quantised, sharded and sparse weights may have no data pointer.
        values = model.state_dict(keep_vars=True).values()
        held = [value for value in values if type(value) in PLAIN and value.layout is torch.strided]
        # Weak references: watching must not keep the memory of a model that is quantised or offloaded.
        self._held = [ref(tensor) for tensor in held]
        self._counting = not any(tensor.is_inference() for tensor in held)
        self._state = self._look(held)

    def changed(self) -> bool:
        """Whether weights were changed since the snapshot."""
        now = [tensor for held in self._held if (tensor := held()) is not None]
        return len(now) < len(self._held) or self._look(now) != self._state

    def _look(self, tensors: list[Tensor]) -> tuple[list[int], list[int]]:
        """Memory address and version counter of each tensor."""
        return list(map(Tensor.data_ptr, tensors)), list(map(_version, tensors)) if self._counting else []
