"""Goals: the metric and head of a task, one small file each."""

from rltr.tasks.goals.classification import Classification
from rltr.tasks.goals.consistency import Consistency
from rltr.tasks.goals.embedding import Embedding
from rltr.tasks.goals.goal import Goal
from rltr.tasks.goals.multilabel import MultiLabel
from rltr.tasks.goals.regression import Regression
from rltr.tasks.goals.token_classes import TokenClassification
from rltr.tasks.goals.zero_shot import ZeroShot

__all__ = [
    "Classification",
    "Consistency",
    "Embedding",
    "Goal",
    "MultiLabel",
    "Regression",
    "TokenClassification",
    "ZeroShot",
]
