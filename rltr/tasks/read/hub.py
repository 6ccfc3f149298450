"""Data sets of Hugging Face's ``datasets``: hub names, local Parquet and Arrow, and objects made in Python.

What it reads stays on disk, memory-mapped. It is imported where it is used, since that takes a second.

A stream is read once, from the front: the number of examples that the options say for each split and up to 1,000 more,
to mix their order, because many sources are sorted. The examples are held in memory, images and sounds as stored.
Rollouts need random access: each input is drawn several times and compared with the dense model's answer to it, and a
training that is resumed must draw the same inputs. So there is a fixed set to draw from. A training draws
rollouts / group_size inputs, and from a set of several times that size hardly any input is drawn twice.
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
"""What ``datasets`` calls the files it is asked to read here."""
SHUFFLED = 1_000
"""Size of the buffer that mixes the order of a stream, in examples."""


def holds_tables(data: Path) -> bool:
    """Whether a file or folder is for :func:`open_files`."""
    if data.is_file():
        return data.suffix.lower() in SUFFIXES
    return _is_saved(data) or bool(_tables_in(data))


def open_files(data: Path, options: DataOptions) -> dict[str, Table]:
    """Parquet or Arrow: a file, a folder of them with splits in their names, or what ``save_to_disk`` wrote.

    Raises:
        RltrError: if they cannot be read, or lack a split.
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
        if data.is_file():  # as a pattern, which it takes every path for
            return datasets.load_dataset(kind, data_files=glob.escape(str(data)), **given)
        if glob.escape(str(data)) == str(data):
            return datasets.load_dataset(str(data), **given)
        return datasets.load_dataset(kind, data_files=_by_split(data), **given)

    with _quiet():
        return tables_of(_told(load, repr(str(data))), options, str(data), state)


def open_hub(name: str, options: DataOptions) -> dict[str, Table]:
    """A data set of the hub, from the local cache if it is there; ``HF_HUB_OFFLINE`` is respected.

    No code that comes with a data set is run. With ``options.stream_examples`` only that part of its files is
    downloaded which is read.

    Raises:
        RltrError: if it cannot be had, or lacks a split.
    """
    import datasets

    streams = options.stream_examples is not None
    found = _told(lambda: datasets.load_dataset(name, options.subset, streaming=streams), from_here(name))
    return tables_of(found, options, name)


def is_datasets_object(data: object) -> bool:
    """Whether ``data`` was made by ``datasets``; does not import it."""
    return type(data).__module__.partition(".")[0] == "datasets"


def tables_of(found: Any, options: DataOptions, data: str, state: str = "") -> dict[str, Table]:
    """Tables of what ``datasets`` gave: a data set or several by split, in memory, on disk or streaming.

    Args:
        found: by ``datasets``.
        options: what the splits are called, and how much of a stream is taken.
        data: what messages call the data set.
        state: of the files it was read from, where ``datasets`` does not tell changed ones for sure.

    Raises:
        RltrError: if a split is missing or empty.
    """
    splits = dict(found) if isinstance(found, dict) else {WHOLE: found}
    if list(splits) == ["train"] and not any(options.split_names.values()):
        splits = {WHOLE: splits["train"]}  # `datasets` calls everything that is not split train
    if list(splits) != [WHOLE]:
        splits = choose_splits(data, splits, options)
    return {split: _table(data, split, rows, options, state) for split, rows in splits.items()}


def _table(data: str, split: str, rows: Any, options: DataOptions, state: str) -> Table:
    """One split, with images and sounds as they are stored."""
    import datasets

    name = str(getattr(rows, "split", None) or ("row" if split == WHOLE else split))
    if isinstance(rows, datasets.IterableDataset):
        rows = _told(partial(_take, rows, options), repr(data))
    if len(rows) == 0:
        raise RltrError(f"{data} has no records{'' if split == WHOLE else f' in {split}'}; it needs at least one")
    fingerprint = digest([str(rows._fingerprint), state]) if state else str(rows._fingerprint)
    names = [f"{name}[{i}]" for i in range(len(rows))]
    rows = _encoded(rows)
    columns = {name: rows[name] for name in rows.column_names}  # which are read as they are asked for
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
    """Examples from the front of a stream, as a data set in memory; images and sounds stay encoded."""
    import datasets

    stream = _encoded(stream if stream.features is not None else stream._resolve_features())
    # As they are stored: putting a sound into a table as a sound would need an encoder.
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = {
        name: stored if isinstance(feature, datasets.Image | datasets.Audio) else feature
        for name, feature in stream.features.items()
    }
    wanted = options.stream_examples or STREAM_EXAMPLES
    stream = stream.shuffle(seed=options.seed, buffer_size=min(SHUFFLED, wanted))
    records = list(islice(stream, wanted))  # stream.take asks for one more, which can fill the buffer again
    return datasets.Dataset.from_list(records, features=datasets.Features(features))


def _is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote a folder: one data set, or several by split."""
    one = all((folder / name).is_file() for name in ("dataset_info.json", "state.json"))
    return one or (folder / "dataset_dict.json").is_file()


def _tables_in(folder: Path) -> list[Path]:
    """The tables in a folder, in ``data`` in it, or in a folder for a split; hidden copies do not count."""
    top = entries(folder)
    files = [*top, *(own for path in top if path.is_dir() for own in entries(path))]
    return [path for path in files if path.suffix.lower() in SUFFIXES and path.is_file()]


def _state(files: Sequence[Path]) -> str:
    """A digest of where files are, how large, and when they changed; empty for no files."""
    stats = [(path.resolve(), path.stat()) for path in files]
    every = [f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}" for path, stat in stats]
    return digest(every) if every else ""


def _cache(state: str) -> Path:
    """Where ``datasets`` may keep a copy of files in this state as Arrow.

    It tells a changed file by its time of change alone, which some programs set back; so every state has a folder of
    its own. Where its cache cannot be written, the copy lasts as long as this process.
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
    """The tables of a folder by split, each as a pattern, for folders whose name is a pattern to ``datasets``."""
    from datasets.data_files import DataFilesDict, get_data_patterns

    base = glob.escape(str(folder.absolute()))
    found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    files = {split: [path for path in own if Path(path).suffix.lower() in SUFFIXES] for split, own in found.items()}
    return {str(split): [glob.escape(path) for path in own] for split, own in files.items() if own}


def _told(load: Callable[[], Any], data: str) -> Any:
    """Call ``load``; its errors become an ``RltrError`` of one line."""
    try:
        return load()
    except Exception as error:  # datasets raises whatever its readers, the hub and pyarrow raise
        cause: BaseException = error
        while cause.__cause__ is not None:  # the outermost may only say that there was an error
            cause = cause.__cause__
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise RltrError(
            f"the data set {data} cannot be read: {reason.rstrip('.')}; check the path or the name (owner/name "
            "on the hub), data.subset and the network; with HF_HUB_OFFLINE=1 it must be in the cache already"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars while local files are indexed; bars of downloads stay."""
    import datasets

    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
