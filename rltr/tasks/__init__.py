"""Tasks: inputs with labels, and scores. One file per kind of input; ``KINDS`` lists them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.recipe import is_hub_name
from rltr.tasks.arrays import ArrayExamples, holds_arrays, load_arrays, open_arrays
from rltr.tasks.examples import Examples, Index, Task, TensorExamples
from rltr.tasks.fitting import check_fit
from rltr.tasks.images import load_image_tables, load_images
from rltr.tasks.options import DataOptions
from rltr.tasks.scores import SCORES, score
from rltr.tasks.tables import Table, holds_tables, is_datasets_object, open_files, open_hub, tables_of
from rltr.tasks.text import load_text_tables, load_texts

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


class Kind(NamedTuple):
    """One kind of task.

    Args:
        input_name: the model's main input that it is for (``model.main_input_name``).
        load: reads the data for a model; called with the model, the data's path, the model's folder or hub id (for its
            processor or tokenizer), and the options.
        load_tables: the same for tables (hub data sets, Parquet, Arrow), given by split in place of the path; None for
            a kind that does not read them.
    """

    input_name: str
    load: Callable[[PreTrainedModel, Path, str, DataOptions], Task]
    load_tables: Callable[[PreTrainedModel, Mapping[str, Table], str, DataOptions], Task] | None = None


KINDS = {
    "image": Kind("pixel_values", load_images, load_image_tables),
    "text": Kind("input_ids", load_texts, load_text_tables),
}
"""Every kind by its name. To add one: write its file, with a subclass of ``Examples`` and a loader; list it here."""


def load_task(
    model: PreTrainedModel,
    data: str | Path | Any,
    source: str | None = None,
    kind: str | None = None,
    options: DataOptions | None = None,
) -> Task:
    """Read a data set for a model, with the model's own processor or tokenizer.

    Args:
        model: a single-label classifier.
        data: one of these; each may come in splits named train, test and validation (or val), or whole, to be divided:

            * for images a folder with one subfolder per class; for texts a .csv, .tsv or .jsonl;
            * .parquet or .arrow, or what ``datasets`` saved to disk, with a column of images or texts;
            * the name of a data set on the hub, ``owner/name``; or an object of ``datasets``, streaming or not;
            * .npz with model inputs and labels; the same as a mapping of arrays; or an iterable of mappings with model
              inputs and labels, as processors give them (see :func:`rltr.tasks.arrays.load_arrays`). Splits of these
              are a mapping, too.
        source: the model's folder or hub id; None takes where ``model`` was loaded from. Model inputs need none.
        kind: a name in ``KINDS``; None takes what fits the model's main input.
        options: fractions, seed, columns and so on; None takes the defaults.

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
    task = _load(model, data, source or model.name_or_path or "", kind or fitting[0], options or DataOptions())
    if options is not None and options.bad_inputs == "skip":
        task = task.without_faults()
    check_fit(model, task.train)
    return task


def _load(model: PreTrainedModel, data: Any, source: str, kind: str, options: DataOptions) -> Task:
    """Read the data, whatever they are."""
    path = Path(data).expanduser() if isinstance(data, str | Path) else None
    if path is not None and path.exists():
        if holds_arrays(path, options):
            return load_arrays(model, open_arrays(path, options), kind, options, str(path))
        tables = open_files(path, options) if holds_tables(path) else None
    elif isinstance(data, str) and is_hub_name(data):
        tables = open_hub(data, options)
    elif path is not None:
        raise RltrError(f"there is no data at {path}; check the path")
    elif is_datasets_object(data):
        tables = tables_of(data, options, type(data).__name__)
    else:
        return load_arrays(model, data, kind, options, "the data")
    if not source:
        raise RltrError("this model was not loaded from a folder or the hub; give its folder as source")
    if tables is None:
        assert path is not None
        return KINDS[kind].load(model, path, source, options)
    load_tables = KINDS[kind].load_tables
    if load_tables is None:
        able = ", ".join(name for name, known in KINDS.items() if known.load_tables)
        raise RltrError(f"{kind} tasks do not read tables (hub data sets, Parquet, Arrow); these do: {able}")
    return load_tables(model, tables, source, options)
