"""Exactness of the attention backends for packed rows, against one call of sdpa per row.

All precisions and several distributions of row lengths are tested. Rounding differs between backends, so each result
and that of sdpa are compared with the same computation in float64. A backend may differ from it by the tolerance of
:func:`rltr.check.rounding.tolerance`: in half precision, by twice as much as sdpa does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from rltr.check.rounding import max_difference, tolerance
from rltr.errors import RltrError
from rltr.runtime import tokens as ragged
from rltr.runtime.kernels import BACKENDS, Plan, check_kernel, packed, ragged_attention
from rltr.runtime.kernels.backends import KERNELS
from rltr.runtime.pattern import Pattern
from rltr.runtime.tokens import Tokens

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
REFERENCE = "sdpa-per-row"
PATTERNS = {"to both sides": Pattern(), "causal": Pattern(causal_mask_function)}


@dataclass(frozen=True)
class Shape:
    """Shape of the compared attention.

    Attributes:
        heads: number of heads of queries, keys and values.
        width: channels per head.
        rows: name of each distribution of row lengths, and the number of tokens in each of its rows.
    """

    heads: int
    width: int
    rows: Mapping[str, Sequence[int]]


def shape(small: bool) -> Shape:
    """Shape of a ViT-B's attention, or a small one."""
    rows, most = (6, 17) if small else (64, 197)
    linear = torch.linspace(most / 5, most, rows).round().int().tolist()
    uneven = {
        "a few apart": [most - row % 3 for row in range(rows)],
        "a fifth to all": linear,
        "one long row": [4 * most, *[4] * (rows - 1)],
        "rows of one token": [most, *[1] * (rows - 1)],
    }
    return Shape(*((2, 16) if small else (12, 64)), uneven)


def refusal(backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a backend cannot run on this device; None if it can."""
    try:
        check_kernel(backend, device, dtype)
    except RltrError as error:
        return str(error).split(" cannot run here: ")[-1].split("; choose")[0]
    return None


def measure(device: torch.device, dtype: torch.dtype, wanted: Shape) -> list[dict[str, Any]]:
    """Compare every backend that can run here with :data:`REFERENCE` and with float64, by the largest difference.

    Args:
        device: the device.
        dtype: dtype of queries, keys and values.
        wanted: shape of the attention.
    """
    rows = []
    backends = [name for name in BACKENDS if name not in ("auto", REFERENCE) and refusal(name, device, dtype) is None]
    for unevenness, counts in wanted.rows.items():
        for sized in (False, True):
            tokens, qkv = _batch(wanted, counts, sized, device, dtype)
            for pattern_name, pattern in PATTERNS.items():
                expected = _attend(REFERENCE, tokens, qkv, pattern)
                exact = _attend(REFERENCE, tokens, [tensor.double() for tensor in qkv], pattern)
                allowed = tolerance(expected, exact, dtype)
                for backend in backends:
                    with _kernels_watched() as called:
                        found = _attend(backend, tokens, qkv, pattern)
                    ran = called[0] if called else "sdpa"
                    rows.append(
                        {
                            "backend": backend,
                            "ran": ran,
                            "dtype": str(dtype).removeprefix("torch."),
                            "rows": unevenness,
                            "sizes": sized,
                            "pattern": pattern_name,
                            "from sdpa": max_difference(found, expected),
                            "from float64": max_difference(found, exact),
                            "sdpa from float64": max_difference(expected, exact),
                            "allowed": allowed,
                            # If another kernel ran than the requested one, nothing was shown about that one.
                            "met": max_difference(found, exact) <= allowed
                            and (ran == backend or backend not in KERNELS),
                        }
                    )
    return rows


def _batch(
    wanted: Shape, counts: Sequence[int], sized: bool, device: torch.device, dtype: torch.dtype
) -> tuple[Tokens, list[Tensor]]:
    """A ragged batch, and packed queries, keys and values ``(1, heads, tokens, width)``."""
    present = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    tokens = ragged.pack(present.to(device))
    generator = torch.Generator().manual_seed(0)
    if sized:
        size = torch.randint(1, 40, (tokens.total,), generator=generator).float()
        tokens = replace(tokens, size=size.to(device))
    values = torch.randn(3, 1, tokens.total, wanted.heads, wanted.width, generator=generator)
    return tokens, [part.transpose(1, 2) for part in values.to(device, dtype)]


def _attend(backend: str, tokens: Tokens, qkv: Sequence[Tensor], pattern: Pattern) -> Tensor:
    query, key, value = qkv
    plan = Plan(replace(tokens), backend)  # type: ignore[arg-type] # one of BACKENDS
    return ragged_attention(query, key, value, plan, query.shape[-1] ** -0.5, pattern)


@contextmanager
def _kernels_watched() -> Iterator[list[str]]:
    """Yield a list that gets the name of every called kernel; it stays empty if rows are padded instead."""
    called: list[str] = []

    def noting(name: str, kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(*args: Any) -> Tensor:
            called.append(name)
            return kernel(*args)

        return noted

    with ExitStack() as stack:
        for name in KERNELS:
            stack.enter_context(patch.object(packed, name, noting(name, getattr(packed, name))))
        yield called
