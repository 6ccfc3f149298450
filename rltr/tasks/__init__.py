"""Tasks: inputs with labels, and scores. One file per kind of input; ``KINDS`` lists them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.examples import Examples, Index, Task, TensorExamples
from rltr.tasks.images import load_images
from rltr.tasks.options import DataOptions
from rltr.tasks.scores import SCORES, score
from rltr.tasks.text import load_texts

__all__ = [
    "KINDS",
    "SCORES",
    "DataOptions",
    "Examples",
    "Index",
    "Kind",
    "Task",
    "TensorExamples",
    "load_task",
    "score",
]


class Kind(NamedTuple):
    """One kind of task.

    Args:
        input_name: the model's main input that it is for (``model.main_input_name``).
        load: reads the data for a model; called with the model, the data's path, the model's folder or hub id (for its
            processor or tokenizer), and the options.
    """

    input_name: str
    load: Callable[[PreTrainedModel, Path, str, DataOptions], Task]


KINDS = {"image": Kind("pixel_values", load_images), "text": Kind("input_ids", load_texts)}
"""Every kind by its name. To add one: write its file, with a subclass of ``Examples`` and a loader; list it here."""


def load_task(
    model: PreTrainedModel,
    data: str | Path,
    source: str | None = None,
    kind: str | None = None,
    options: DataOptions | None = None,
) -> Task:
    """Read a data set for a model, with the model's own processor or tokenizer.

    Args:
        model: a single-label classifier.
        data: for images a folder with one subfolder per class; for texts a .csv, .tsv or .jsonl; either may come in
            splits named train, validation (or val) and test.
        source: the model's folder or hub id; None takes where ``model`` was loaded from.
        kind: a name in ``KINDS``; None takes what fits the model's main input.
        options: fractions, seed, columns; None takes the defaults.

    Raises:
        RltrError: if anything about data, model or processor does not fit; the message says what, and what to do.
    """
    fitting = [name for name, known in KINDS.items() if known.input_name == model.main_input_name]
    if kind is not None and kind not in KINDS:
        raise RltrError(f"there is no task kind {kind!r}; choose one of {', '.join(KINDS)}")
    if not fitting or (kind is not None and kind not in fitting):
        raise RltrError(
            f"{type(model).__name__} takes {model.main_input_name}, which is for "
            f"{' or '.join(fitting) or 'no'} tasks, not {kind or 'one of ' + ', '.join(KINDS)}"
        )
    source = source or model.name_or_path
    if not source:
        raise RltrError("this model was not loaded from a folder or the hub; give its folder as source")
    data = Path(data).expanduser()
    if not data.exists():
        raise RltrError(f"there is no data at {data}; check the path")
    return KINDS[kind or fitting[0]].load(model, data, source, options or DataOptions())
