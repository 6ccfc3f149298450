"""A cache of tensors, limited by bytes: the least recently used ones are removed."""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor


class Recent:
    """An LRU cache of tensors by index.

    Args:
        make: computes the tensor of an index.
        most_bytes: limit of the total size, in bytes.
    """

    def __init__(self, make: Callable[[int], Tensor], most_bytes: int) -> None:
        self.make = make
        self.most_bytes = most_bytes
        self._known: OrderedDict[int, Tensor] = OrderedDict()
        self._bytes = 0

    def __call__(self, number: int) -> Tensor:
        """The tensor of index ``number``, computed if it is not in the cache."""
        if number in self._known:
            self._known.move_to_end(number)
            return self._known[number]
        made = self._known[number] = self.make(number)
        self._bytes += made.nbytes
        while self._bytes > self.most_bytes:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
        return made
