"""Names of the attention backends for rows of different lengths."""

from typing import Literal, TypeAlias, get_args

from rltr.errors import RltrError

Backend: TypeAlias = Literal["auto", "sdpa-per-row", "sdpa-grouped", "sdpa-padded", "varlen", "flash"]
"""How attention is computed for rows of different lengths.

``auto``: the best of the others. On CUDA in half precision ``varlen``, or ``flash`` where that is missing or logits are
capped; on a CPU ``sdpa-grouped`` for small rows and ``sdpa-per-row`` for larger ones; everywhere else ``sdpa-padded``.

``sdpa-per-row``: one call per row, on views. ``sdpa-grouped``: one call per group of rows of similar length, padded to
the longest of the group. ``sdpa-padded``: one call, all rows padded to the longest. ``varlen`` and ``flash``: kernels
that take packed rows (see :mod:`rltr.runtime.kernels.packed`); what they cannot compute exactly (sliding windows,
sinks) is computed by ``sdpa-padded``.

Rows of equal length are one call without copies, whatever is chosen.
"""
BACKENDS: tuple[str, ...] = get_args(Backend)
"""Values of :data:`Backend`."""
KERNELS: tuple[Literal["varlen", "flash"], ...] = ("varlen", "flash")
"""Backends that are kernels for packed rows, the preferred one first."""


def check_backend(backend: str) -> None:
    """Raise if the backend is unknown.

    Raises:
        RltrError: if there is no such backend.
    """
    if backend not in BACKENDS:
        raise RltrError(f"attention={backend!r} is not a backend: choose one of {', '.join(BACKENDS)}")
