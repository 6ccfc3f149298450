"""Storage on disk for arrays that arrive one by one and may not fit into memory."""

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rltr.errors import RltrError


class DiskRows:
    """Rows of one data type, appended to a temporary file and memory-mapped afterwards.

    The file is unnamed and in ``TMPDIR``. The system deletes it once it is closed and no array of :meth:`rows` is left.

    Args:
        name: how messages refer to these rows.
        dtype: the data type of all rows.
    """

    def __init__(self, name: str, dtype: np.dtype[Any]) -> None:
        self.name = name
        self.dtype = dtype
        self._file = tempfile.TemporaryFile(prefix="rltr-")  # noqa: SIM115 - closed in close
        self._shapes: list[tuple[int, ...]] = []

    def append(self, row: NDArray[Any]) -> None:
        """Add a row.

        Raises:
            RltrError: if its data type or number of axes differs from that of the rows before, or the disk is full.
        """
        if row.dtype != self.dtype or (self._shapes and row.ndim != len(self._shapes[0])):
            was = self._shapes[0] if self._shapes else ()
            raise RltrError(
                f"{self.name}: row {len(self._shapes)} is {row.dtype} {row.shape}, but those before it are "
                f"{self.dtype} {was}; all rows of an input need the same data type and number of axes"
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
        """All rows: one array ``(rows, …)`` if they have the same shape, else a list; call it after the last append."""
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
        """Close the file; arrays that :meth:`rows` returned stay valid."""
        self._file.close()
