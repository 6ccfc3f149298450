"""Texts or images without labels, for models that embed them: right is what the dense model says."""

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoImageProcessor, PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks import images
from rltr.tasks.examples import Examples, Task
from rltr.tasks.goals import Embedding
from rltr.tasks.images import ImageExamples
from rltr.tasks.options import DataOptions
from rltr.tasks.source import load_part
from rltr.tasks.splits import SPLITS, divide, find_splits
from rltr.tasks.text import SUFFIXES, TextExamples, load_tokenizer, longest_text, read_field, read_rows

TEXTS = (".txt", *SUFFIXES)


def load_unlabelled(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read texts or images, whichever the model takes.

    Texts: a .txt with one in each line, or a .csv, .tsv or .jsonl with a column of them. Images: a folder, however
    deep. Either may come as a folder with ``train``, ``validation`` (or ``val``) and ``test``; else it is divided by
    ``options.fractions``.

    Raises:
        RltrError: if there is nothing of that kind, something is damaged, or processor or tokenizer cannot be loaded.
    """
    if model.main_input_name == "pixel_values":
        return _task(_images(model, data, source, options), data, options)
    return _task(_texts(model, data, source, options), data, options)


def _task(splits: dict[str, Examples], data: Path, options: DataOptions) -> Task:
    if "all" in splits:
        return divide(splits["all"], "embedding", options, data)
    return Task(splits["train"], splits["validation"], splits["test"], "embedding")


def _texts(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> dict[str, Examples]:
    tokenizer = load_tokenizer(model, source)
    longest = longest_text(model, tokenizer)
    files = {"all": data}
    if data.is_dir():
        entries = [path for path in data.iterdir() if path.suffix in TEXTS and path.stem.lower() in SPLITS]
        if not entries:
            raise RltrError(f"{data} holds no train, validation and test file ({', '.join(TEXTS)})")
        files = find_splits(data, entries)
    splits: dict[str, Examples] = {}
    for split, path in files.items():
        texts = list(_lines(path) if path.suffix == ".txt" else _column(path, options.text_column))
        if not texts:
            raise RltrError(f"{path} has no texts; it needs at least one")
        splits[split] = TextExamples(texts, torch.zeros(len(texts), 0), [], tokenizer, longest)
        splits[split].goal = Embedding(model.config.hidden_size, options.pooling)
    return splits


def _column(path: Path, column: str) -> Iterator[str]:
    for line, record in read_rows(path):
        yield read_field(record, column, f"{path}, line {line}")


def _lines(path: Path) -> Iterator[str]:
    try:
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            if line.strip():
                yield line.strip()
    except OSError as error:
        raise RltrError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RltrError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _images(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> dict[str, Examples]:
    if not data.is_dir():
        raise RltrError(f"{data} is not a folder; an image model needs a folder of images")
    processor = load_part(AutoImageProcessor, source, "image processor", "a preprocessor_config.json", backend="pil")
    folders = [path for path in data.iterdir() if path.is_dir() and not path.name.startswith(".")]
    is_split = bool(folders) and all(folder.name.lower() in SPLITS for folder in folders)
    roots = find_splits(data, folders) if is_split else {"all": data}
    splits: dict[str, Examples] = {}
    for split, root in roots.items():
        paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in images.SUFFIXES and path.is_file())
        if not paths:
            raise RltrError(f"no images in {root} (looked for {' '.join(sorted(images.SUFFIXES))})")
        names = [path.relative_to(data).as_posix() for path in paths]
        channels = getattr(model.config, "num_channels", 3)
        splits[split] = ImageExamples(paths, torch.zeros(len(paths), 0), names, [], processor, channels)
        splits[split].goal = Embedding(model.config.hidden_size, options.pooling)
    return splits
