"""What ways of computing attention over uneven rows are called."""

from typing import Literal, TypeAlias, get_args

from rltr.errors import RltrError

Backend: TypeAlias = Literal["auto", "sdpa-per-row", "sdpa-grouped", "sdpa-padded", "varlen", "flash"]
"""How uneven rows are computed.

``auto``: the best of the others. On CUDA in half precision ``varlen``, or ``flash`` where that is missing or logits are
capped; on a CPU ``sdpa-grouped`` for small rows and ``sdpa-per-row`` for larger ones; everywhere else ``sdpa-padded``.

``sdpa-per-row``: a call for each row, on views. ``sdpa-grouped``: a call for all rows of similar length, padded to the
longest of them. ``sdpa-padded``: one call, all rows padded to the longest. ``varlen`` and ``flash``: kernels that take
packed rows (see :mod:`rltr.runtime.kernels.packed`). What these two cannot compute exactly (sliding windows, sinks) is
padded.

Rows that have equally many tokens are one call on the tensors as they are, whatever is chosen.
"""
BACKENDS: tuple[str, ...] = get_args(Backend)
"""The names of :data:`Backend`."""
KERNELS: tuple[Literal["varlen", "flash"], ...] = ("varlen", "flash")
"""Those of them that are kernels for packed rows, the better one first."""


def check_backend(backend: str) -> None:
    """Raise if the backend is unknown.

    Raises:
        RltrError: if there is no such backend.
    """
    if backend not in BACKENDS:
        raise RltrError(f"attention={backend!r} is not a backend: choose one of {', '.join(BACKENDS)}")
