"""Whether somebody changed a model's weights: told from what torch counts, so that it costs next to nothing."""

from operator import attrgetter
from weakref import ref

import torch
from torch import Tensor, nn

PLAIN = (Tensor, nn.Parameter)
_version = attrgetter("_version")


class WatchedWeights:
    """The weights that a model has now, to be compared with those that it has later.

    Noticed is what torch counts (``load_state_dict``, optimisers, whatever is computed in place), what gives a weight
    other memory (``.to()``, ``.half()``, ``weight.data = …``), and weights that are gone. Values are not looked at, so
    what was noticed may have left them as they were.

    Not noticed is what nobody counts: what is written in place through ``weight.data``, or to weights that were made in
    inference mode. Nor is another weight in the place of one that somebody still holds, which
    :attr:`rltr.runtime.changes.Changes` counts.

    Args:
        model: the model; what its state dict holds counts.
    """

    def __init__(self, model: nn.Module) -> None:
        # Quantised, sharded and sparse weights may have no memory of their own.
        values = model.state_dict(keep_vars=True).values()
        held = [value for value in values if type(value) in PLAIN and value.layout is torch.strided]
        # Nobody keeps weights in memory by watching them: who quantises a model, or offloads it, is in need of it.
        self._held = [ref(tensor) for tensor in held]
        self._counting = not any(tensor.is_inference() for tensor in held)
        self._state = self._look(held)

    def changed(self) -> bool:
        """Whether weights were changed since this was made."""
        now = [tensor for held in self._held if (tensor := held()) is not None]
        return len(now) < len(self._held) or self._look(now) != self._state

    def _look(self, tensors: list[Tensor]) -> tuple[list[int], list[int]]:
        """Where tensors are in memory, and how often they were changed in place."""
        return list(map(Tensor.data_ptr, tensors)), list(map(_version, tensors)) if self._counting else []
