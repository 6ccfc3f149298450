"""Answers of the dense model, which training and evaluation compare with, and where they are kept."""

from rltr.dense.answers import DenseLogits
from rltr.dense.cache import DenseCache

__all__ = ["DenseCache", "DenseLogits"]
