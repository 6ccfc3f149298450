"""Arrays that arrive one by one, kept in a temporary file, since they may not fit in memory."""

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rltr.errors import RltrError


class Spool:
    """Rows of one data type, written as they come and memory-mapped afterwards.

    The file has no name (it lies in ``TMPDIR``), and is gone once it is closed and no array of :meth:`rows` is left.

    Args:
        name: what messages call these rows.
        dtype: of all of them.
    """

    def __init__(self, name: str, dtype: np.dtype[Any]) -> None:
        self.name = name
        self.dtype = dtype
        self._file = tempfile.TemporaryFile(prefix="rltr-")  # noqa: SIM115 - closed in close
        self._shapes: list[tuple[int, ...]] = []

    def append(self, row: NDArray[Any]) -> None:
        """Add a row.

        Raises:
            RltrError: if its data type or its number of axes is not that of the rows before (with ``name``), or the
                disk is full.
        """
        if row.dtype != self.dtype or (self._shapes and row.ndim != len(self._shapes[0])):
            was = self._shapes[0] if self._shapes else ()
            raise RltrError(
                f"{self.name}: row {len(self._shapes)} is {row.dtype} {row.shape}, but those before it are "
                f"{self.dtype} {was}; all rows of an input need one data type and equally many axes"
            )
        try:
            self._file.write(np.ascontiguousarray(row).tobytes())
        except OSError as error:
            raise RltrError(
                f"no room for the data in {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a larger disk, or "
                "take fewer examples: data.stream_examples"
            ) from error
        self._shapes.append(row.shape)

    def rows(self) -> NDArray[Any] | Sequence[NDArray[Any]]:
        """All rows: one array ``(rows, …)`` if they have one shape, or else a list. Nothing can be added then."""
        self._file.flush()
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        # An empty file cannot be mapped.
        flat: NDArray[Any] = np.memmap(self._file, self.dtype, "r") if sum(sizes) else np.empty(0, self.dtype)
        if len(set(self._shapes)) == 1:
            return flat.reshape(len(self._shapes), *self._shapes[0])
        ends = np.cumsum(sizes)
        return [
            flat[end - size : end].reshape(shape) for end, size, shape in zip(ends, sizes, self._shapes, strict=True)
        ]

    def close(self) -> None:
        """Close the file; arrays that :meth:`rows` gave stay."""
        self._file.close()
