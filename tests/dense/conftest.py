"""A cache in an empty folder, answers for it, and a count of the model's passes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rltr.dense.cache import DenseCache

KEY = "a" * 64
LARGE = 2**30


def cache(tmp_path: Path, most_bytes: int = LARGE) -> DenseCache:
    return DenseCache(most_bytes, tmp_path / "dense")


def rows(index: list[int], value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Logits that identify their example."""
    return torch.tensor(index), torch.tensor(index, dtype=torch.float32)[:, None] + torch.tensor([value, 0.5])


@pytest.fixture
def passes(tiny_vit: Any) -> Any:
    """Number of rows of each forward pass of the model."""
    seen: list[int] = []
    handle = tiny_vit.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    yield seen
    handle.remove()
