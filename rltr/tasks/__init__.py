"""Tasks: data sets with labels, the metrics they are scored by, and loaders for both.

``load.py`` reads the data that a user names and returns a task. ``read/`` reads files and tables, ``examples/`` turns
records into model inputs by index, ``goals/`` holds the metrics and heads, and ``models.py`` loads the frozen model.
"""

from rltr.recipe.data_options import DataOptions
from rltr.tasks.examples.arrays import ArrayExamples
from rltr.tasks.examples.base import Examples, Index, Task
from rltr.tasks.examples.tensors import TensorExamples
from rltr.tasks.goals.scores import SCORES, score
from rltr.tasks.load import KINDS, Kind, load_task

__all__ = [
    "KINDS",
    "SCORES",
    "ArrayExamples",
    "DataOptions",
    "Examples",
    "Index",
    "Kind",
    "Task",
    "TensorExamples",
    "load_task",
    "score",
]
