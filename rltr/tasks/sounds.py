"""Sounds from one folder per class (or per number), or from a table with a column of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoFeatureExtractor, PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.class_folders import read_class_folders
from rltr.tasks.examples import Examples, Index, Task, digest
from rltr.tasks.heads import read_labels
from rltr.tasks.options import DataOptions
from rltr.tasks.recent import Recent
from rltr.tasks.sound_files import SUFFIXES, count_samples, import_soundfile, read_sound
from rltr.tasks.source import load_part
from rltr.tasks.splits import assemble
from rltr.tasks.stored_files import StoredFile, digest_stored
from rltr.tasks.table_labels import read_table_labels
from rltr.tasks.tables import Table

CACHE_BYTES = 2**28
"""Prepared sounds that one data set keeps in memory: 256 MiB, 70 minutes at 16 kHz."""
CURE = "replace or remove it, or leave such sounds out: data.bad_inputs=skip"


class SoundExamples(Examples):
    """Sounds on disk, read when they are asked for, at the model's sampling rate; several channels are averaged.

    Args:
        files: one per example.
        labels: what is true of each.
        names: a short name per example.
        classes: the names of the classes, by label.
        extractor: the model's own feature extractor.
        cache_bytes: most bytes of prepared sounds to keep.
        identity: a digest of all files; None takes paths, sizes and times of change.
    """

    def __init__(
        self,
        files: Sequence[StoredFile],
        labels: Shaped[Tensor, "examples *label"],
        names: Sequence[str],
        classes: Sequence[str],
        extractor: Any,
        cache_bytes: int = CACHE_BYTES,
        identity: str | None = None,
    ) -> None:
        super().__init__(labels, names, classes)
        self.files = files
        self.extractor = extractor
        self.identity = identity
        self._prepared = Recent(self._prepare, cache_bytes)
        self._unusable: set[int] = set()
        self._lengths: list[int] | None = None

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: what the model calls its input, ``(rows, samples)`` or ``(rows, frames, bins)``.

        A model that was trained with an ``attention_mask`` gets one, and rows padded to the longest of the batch. One
        that was not (Wav2Vec2 with group norm) hears the padding, too: its rows are all as long as the longest of all,
        so that an answer does not depend on the batch.
        """
        name = self.extractor.model_input_names[0]
        rows = [self._prepared(i) for i in torch.as_tensor(index, dtype=torch.long).tolist()]
        if rows[0].ndim > 1:  # spectrograms, which the extractor brings to one size
            return {name: torch.stack(rows)}
        masked = bool(self.extractor.return_attention_mask)
        length = max(map(len, rows)) if masked else max(self.lengths())
        padding = float(self.extractor.padding_value)
        padded = pad_sequence([*rows, rows[0].new_zeros(length)], batch_first=True, padding_value=padding)[:-1]
        if not masked:
            return {name: padded}
        present = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
        return {name: padded, "attention_mask": present.long()}

    def lengths(self) -> Sequence[int]:
        """See ``Examples``; in samples at the model's rate, of which tokens are made."""
        if self._lengths is None:
            try:
                self._lengths = [
                    0 if i in self._unusable else count_samples(file, self.extractor.sampling_rate, self._called(i))
                    for i, file in enumerate(self.files)
                ]
            except RltrError as error:
                raise RltrError(f"{error}; {CURE}") from error
        return self._lengths

    def fingerprint(self) -> str | None:
        """See ``Examples``: of the files, the feature extractor, and the versions of what decodes and resamples."""
        identity = self.identity or digest_stored(self.files)
        if identity is None:
            return None
        versions = [import_soundfile().__libsndfile_version__, scipy.__version__]
        return digest([identity, type(self.extractor).__name__, self.extractor.to_json_string(), *versions])

    def fault(self, i: int) -> str | None:
        """See ``Examples``; what has one does not count for the length of the others' rows."""
        try:
            read_sound(self.files[i], self.extractor.sampling_rate, self._called(i))
        except RltrError as error:
            self._unusable.add(i)
            return str(error)
        return None

    def _called(self, i: int) -> str:
        """What messages call a sound: the whole path, where it has one."""
        file = self.files[i]
        return str(file) if isinstance(file, Path) else self.names[i]

    def _prepare(self, i: int) -> Float[Tensor, "*shape"]:
        try:
            wave = read_sound(self.files[i], self.extractor.sampling_rate, self._called(i))
        except RltrError as error:
            raise RltrError(f"{error}; {CURE}") from error
        made = self.extractor(wave, sampling_rate=self.extractor.sampling_rate, return_tensors="np")
        return torch.from_numpy(np.asarray(made[self.extractor.model_input_names[0]][0], dtype=np.float32))


def load_sounds(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read a folder of sounds, one subfolder per class.

    See :func:`rltr.tasks.class_folders.read_class_folders`; what is not in splits is divided by ``options.fractions``.

    Raises:
        RltrError: if the folder holds nothing of that kind, a class is empty, the classes do not fit the model's head,
            or the model's feature extractor cannot be loaded.
    """
    files = read_class_folders(data, SUFFIXES, "sounds", options)
    extractor = _load_extractor(model, source)
    labelling = read_labels((name for split in files.values() for name in split), model.config)

    def examples(split: str) -> SoundExamples:
        pairs = [(path, name) for name, paths in files[split].items() for path in paths]
        paths, labels = [path for path, _ in pairs], labelling([name for _, name in pairs])
        names = [path.relative_to(data).as_posix() for path in paths]
        made = SoundExamples(paths, labels, names, labelling.classes, extractor)
        made.goal = labelling.goal
        return made

    return assemble(list(files), examples, "audio", options, data)


def load_sound_tables(model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions) -> Task:
    """Take sounds from tables, by split, each with a column of sounds and one of labels.

    Raises:
        RltrError: if a column is missing or holds something else, the labels do not fit the model's head, or the
            model's feature extractor cannot be loaded.
    """
    extractor = _load_extractor(model, source)
    columns = {split: table.sounds(options.audio_column) for split, table in tables.items()}
    labelling, labels = read_table_labels(tables, options.label_column, lambda own: read_labels(own, model.config))

    def examples(split: str) -> SoundExamples:
        column, identity = columns[split]
        own, names = labelling(labels[split]), tables[split].places()
        made = SoundExamples(column, own, names, labelling.classes, extractor, identity=identity)
        made.goal = labelling.goal
        return made

    return assemble(list(tables), examples, "audio", options, next(iter(tables.values())).data)


def _load_extractor(model: PreTrainedModel, source: str) -> Any:
    """The model's feature extractor, if it makes what the model takes; sounds can be read from here on."""
    import_soundfile()
    extractor = load_part(AutoFeatureExtractor, source, "feature extractor", "a preprocessor_config.json")
    if extractor.model_input_names[0] != model.main_input_name:
        raise RltrError(
            f"the feature extractor of {source!r} makes {extractor.model_input_names[0]}, but {type(model).__name__} "
            f"takes {model.main_input_name}; save the model's own beside it"
        )
    return extractor
