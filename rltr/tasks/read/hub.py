"""Data sets of Hugging Face's ``datasets``: hub names, local Parquet and Arrow, and objects made in Python.

``datasets`` keeps the data on disk, memory-mapped. It is imported inside the functions that use it, because the import
takes a second.

A stream is read once, from the start: ``stream_examples`` examples of each split, and up to 1,000 more for a shuffle
buffer, because many sources are sorted. The examples are held in memory, images and sounds in encoded form. A fixed set
of examples is needed because rollouts need random access: each input is drawn several times and compared with the dense
model's answer to it, and a resumed training must draw the same inputs. A training draws rollouts / group_size inputs,
so in a set of several times that size hardly any input is drawn twice.
"""

import atexit
import glob
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rltr.errors import RltrError
from rltr.recipe.data_options import STREAM_EXAMPLES, DataOptions
from rltr.system.files import from_here
from rltr.tasks.examples.base import digest
from rltr.tasks.read.file_search import entries
from rltr.tasks.read.splits import WHOLE, choose_splits
from rltr.tasks.read.tables import Table

SUFFIXES = {".parquet": "parquet", ".arrow": "arrow"}
"""The suffixes that are read with ``datasets``, and the name of its builder for each."""
SHUFFLED = 1_000
"""Size of the shuffle buffer of a stream, in examples."""


def holds_tables(data: Path) -> bool:
    """Whether :func:`open_files` reads this file or folder."""
    if data.is_file():
        return data.suffix.lower() in SUFFIXES
    return _is_saved(data) or bool(_tables_in(data))


def open_files(data: Path, options: DataOptions) -> dict[str, Table]:
    """Read Parquet or Arrow: a file, a folder of files named after splits, or a folder from ``save_to_disk``.

    Raises:
        RltrError: if the files cannot be read, or a split is missing.
    """
    import datasets

    saved = _is_saved(data)
    files = [] if saved else [data] if data.is_file() else _tables_in(data)
    state = _state(files)

    def load() -> Any:
        if saved:
            return datasets.load_from_disk(str(data))
        given: dict[str, Any] = {"streaming": options.stream_examples is not None, "cache_dir": str(_cache(state))}
        kind = SUFFIXES[files[0].suffix.lower()]
        if data.is_file():  # escaped, because `datasets` reads every path as a glob pattern
            return datasets.load_dataset(kind, data_files=glob.escape(str(data)), **given)
        if glob.escape(str(data)) == str(data):
            return datasets.load_dataset(str(data), **given)
        return datasets.load_dataset(kind, data_files=_by_split(data), **given)

    with _quiet():
        return tables_of(_told(load, repr(str(data))), options, str(data), state)


def open_hub(name: str, options: DataOptions) -> dict[str, Table]:
    """Load a data set from the hub, or from the local cache if it is there; ``HF_HUB_OFFLINE`` is respected.

    No code that comes with a data set is run. With ``options.stream_examples``, only the part that is read is
    downloaded.

    Raises:
        RltrError: if it cannot be loaded, or a split is missing.
    """
    import datasets

    streams = options.stream_examples is not None
    found = _told(lambda: datasets.load_dataset(name, options.subset, streaming=streams), from_here(name))
    return tables_of(found, options, name)


def is_datasets_object(data: object) -> bool:
    """Whether ``data`` is an object of ``datasets``; does not import the package."""
    return type(data).__module__.partition(".")[0] == "datasets"


def tables_of(found: Any, options: DataOptions, data: str, state: str = "") -> dict[str, Table]:
    """Convert an object of ``datasets`` to tables: one data set or several by split, in memory, on disk or streaming.

    Args:
        found: the object.
        options: the names of the splits, and the number of examples to take from a stream.
        data: how messages refer to the data set.
        state: a digest of the files it was read from, if ``datasets`` may not notice that they changed.

    Raises:
        RltrError: if a split is missing or empty.
    """
    splits = dict(found) if isinstance(found, dict) else {WHOLE: found}
    if list(splits) == ["train"] and not any(options.split_names.values()):
        splits = {WHOLE: splits["train"]}  # `datasets` names unsplit data "train"
    if list(splits) != [WHOLE]:
        splits = choose_splits(data, splits, options)
    return {split: _table(data, split, rows, options, state) for split, rows in splits.items()}


def _table(data: str, split: str, rows: Any, options: DataOptions, state: str) -> Table:
    """The table of one split, with images and sounds in encoded form."""
    import datasets

    name = str(getattr(rows, "split", None) or ("row" if split == WHOLE else split))
    if isinstance(rows, datasets.IterableDataset):
        rows = _told(partial(_take, rows, options), repr(data))
    if len(rows) == 0:
        raise RltrError(f"{data} has no records{'' if split == WHOLE else f' in {split}'}; it needs at least one")
    fingerprint = digest([str(rows._fingerprint), state]) if state else str(rows._fingerprint)
    names = [f"{name}[{i}]" for i in range(len(rows))]
    rows = _encoded(rows)
    columns = {name: rows[name] for name in rows.column_names}  # columns are lazy: values are read on access
    places = [f"{data}, {own}" for own in names]
    return Table(data, columns, places, names, rows.features, fingerprint=fingerprint)


def _encoded(rows: Any) -> Any:
    """A data set whose images and sounds are not decoded."""
    import datasets

    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            rows = rows.cast_column(name, type(feature)(decode=False))
    return rows


def _take(stream: Any, options: DataOptions) -> Any:
    """Examples from the start of a stream, as a data set in memory; images and sounds stay encoded."""
    import datasets

    stream = _encoded(stream if stream.features is not None else stream._resolve_features())
    # Stored as plain bytes, because writing a feature of type Audio would need an audio encoder.
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = {
        name: stored if isinstance(feature, datasets.Image | datasets.Audio) else feature
        for name, feature in stream.features.items()
    }
    wanted = options.stream_examples or STREAM_EXAMPLES
    stream = stream.shuffle(seed=options.seed, buffer_size=min(SHUFFLED, wanted))
    records = list(islice(stream, wanted))  # stream.take reads one more, which can fill the buffer again
    return datasets.Dataset.from_list(records, features=datasets.Features(features))


def _is_saved(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``: one data set, or several by split."""
    one = all((folder / name).is_file() for name in ("dataset_info.json", "state.json"))
    return one or (folder / "dataset_dict.json").is_file()


def _tables_in(folder: Path) -> list[Path]:
    """The table files in a folder and its direct subfolders (``data``, or one per split); hidden files are ignored."""
    top = entries(folder)
    files = [*top, *(own for path in top if path.is_dir() for own in entries(path))]
    return [path for path in files if path.suffix.lower() in SUFFIXES and path.is_file()]


def _state(files: Sequence[Path]) -> str:
    """A digest of the paths, sizes and times of files; empty for no files."""
    stats = [(path.resolve(), path.stat()) for path in files]
    every = [f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}" for path, stat in stats]
    return digest(every) if every else ""


def _cache(state: str) -> Path:
    """The cache folder in which ``datasets`` keeps an Arrow copy of files in this state.

    ``datasets`` detects a changed file only by its modification time, which some programs preserve, so every state has
    its own folder. If the cache is not writable, a temporary folder is used and deleted when the process exits.
    """
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE) / "rltr" / state
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError:
        cache = Path(tempfile.mkdtemp(prefix="rltr-"))
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
    return cache


def _by_split(folder: Path) -> dict[str, list[str]]:
    """The table files of a folder by split, with glob characters escaped, for folders with such characters."""
    from datasets.data_files import DataFilesDict, get_data_patterns

    base = glob.escape(str(folder.absolute()))
    found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    files = {split: [path for path in own if Path(path).suffix.lower() in SUFFIXES] for split, own in found.items()}
    return {str(split): [glob.escape(path) for path in own] for split, own in files.items() if own}


def _told(load: Callable[[], Any], data: str) -> Any:
    """Call ``load``, and turn its errors into a one-line ``RltrError``."""
    try:
        return load()
    except Exception as error:  # datasets passes on any error of its readers, the hub and pyarrow
        cause: BaseException = error
        while cause.__cause__ is not None:  # the outermost error often has no details
            cause = cause.__cause__
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise RltrError(
            f"the data set {data} cannot be read: {reason.rstrip('.')}; check the path or the name (owner/name "
            "on the hub), data.subset and the network; with HF_HUB_OFFLINE=1 it must be in the cache already"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars while local files are indexed; bars of downloads stay."""
    import datasets

    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
