"""Tasks: inputs, what is true of them, and what counts as right.

``load.py`` makes a task of whatever a user names. ``read/`` reads files and tables, ``examples/`` gives model inputs by
number, ``goals/`` says what counts as right, and ``models.py`` loads the model that goes with them.
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
