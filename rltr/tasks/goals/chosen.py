"""Goals that other packages add through entry points, chosen with ``data.goal`` in a recipe."""

from copy import copy
from dataclasses import replace

from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.system.registry import Registry
from rltr.tasks.examples.base import Task
from rltr.tasks.goals.consistency import Consistency
from rltr.tasks.goals.goal import Goal

AUTO = "auto"
"""The default of ``data.goal``: the goal that fits the model's head."""
GOALS: Registry[Goal] = Registry("rltr.goals", {}, base=Goal)
"""Goals that packages add through entry points, by name; rltr's own are chosen by the model's head."""


def with_goal(task: Task, model: PreTrainedModel, name: str) -> Task:
    """Replace the goal of a task by one from another package, with the same inputs and labels.

    Args:
        task: a task whose labels fit the model's head. Without labels, the goal gets the dense model's decisions.
        model: the frozen model.
        name: the name of an entry point; ``auto`` leaves the goal as it is.

    Raises:
        RltrError: if there is no such goal.
    """
    if name == AUTO:
        return task
    if name not in GOALS:
        known = ", ".join((AUTO, *GOALS))
        raise RltrError(
            f"there is no goal {name!r} (data.goal); choose one of {known}, or install the package that adds it to the "
            "entry points rltr.goals"
        )
    head, goal = task.train.goal, GOALS[name].for_task(model, task.train)
    goal = replace(head, goal=goal) if isinstance(head, Consistency) else goal
    judged = Task(copy(task.train), copy(task.validation), copy(task.test), task.kind)
    for split in (judged.train, judged.validation, judged.test):
        split.goal = goal
    return judged
