"""Answers of the dense model, which training and evaluation compare with, and where they are kept."""

from rltr.dense.answers import DenseAnswers
from rltr.dense.cache import DenseCache

__all__ = ["DenseCache", "DenseAnswers"]
