"""Answers of the dense (unpruned) model, and their cache on disk. Training compares the reduced model with them."""

from rltr.dense.answers import DenseAnswers
from rltr.dense.cache import DenseCache

__all__ = ["DenseCache", "DenseAnswers"]
