"""Sounds from one folder of .wav files per class, or per number."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoFeatureExtractor, PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks.class_folders import read_class_folders
from rltr.tasks.examples import Examples, Index, Task, digest, digest_files
from rltr.tasks.heads import read_labels
from rltr.tasks.options import DataOptions
from rltr.tasks.recent import Recent
from rltr.tasks.source import load_part
from rltr.tasks.splits import assemble

SUFFIXES = {".wav"}
"""Files with other suffixes are left alone."""
CACHE_BYTES = 2**28
"""Prepared sounds that one data set keeps in memory: 256 MiB, 70 minutes at 16 kHz."""
CURE = "replace or remove it, or leave such sounds out: data.bad_inputs=skip"


class SoundExamples(Examples):
    """Sounds on disk, read when they are asked for, at the model's sampling rate; several channels are averaged.

    Args:
        paths: one file per example.
        labels: what is true of each.
        names: a short name per example.
        classes: the names of the classes, by label.
        extractor: the model's own feature extractor.
        cache_bytes: most bytes of prepared sounds to keep.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Shaped[Tensor, "examples *label"],
        names: Sequence[str],
        classes: Sequence[str],
        extractor: Any,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        super().__init__(labels, names, classes)
        self.paths = list(paths)
        self.extractor = extractor
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
                    0 if i in self._unusable else _samples(path, self.extractor.sampling_rate)
                    for i, path in enumerate(self.paths)
                ]
            except RltrError as error:
                raise RltrError(f"{error}; {CURE}") from error
        return self._lengths

    def fingerprint(self) -> str:
        """See ``Examples``: of the files, the feature extractor and the version of scipy, which resamples."""
        settings = self.extractor.to_json_string()
        return digest([digest_files(self.paths), type(self.extractor).__name__, settings, scipy.__version__])

    def fault(self, i: int) -> str | None:
        """See ``Examples``; what has one does not count for the length of the others' rows."""
        try:
            read_sound(self.paths[i], self.extractor.sampling_rate)
        except RltrError as error:
            self._unusable.add(i)
            return str(error)
        return None

    def _prepare(self, i: int) -> Float[Tensor, "*shape"]:
        try:
            wave = read_sound(self.paths[i], self.extractor.sampling_rate)
        except RltrError as error:
            raise RltrError(f"{error}; {CURE}") from error
        made = self.extractor(wave, sampling_rate=self.extractor.sampling_rate, return_tensors="np")
        return torch.from_numpy(np.asarray(made[self.extractor.model_input_names[0]][0], dtype=np.float32))


def read_sound(path: Path, rate: int) -> Float[NDArray[np.float32], " samples"]:
    """Read a .wav file as one channel between -1 and 1, with ``rate`` samples per second.

    Raises:
        RltrError: if it is no such file, is damaged, empty, or has samples that are not finite.
    """
    own, samples = _read(path)
    wave = samples.astype(np.float32)
    if samples.dtype.kind == "u":
        wave -= 128
        wave /= 128
    elif samples.dtype.kind == "i":
        wave /= -float(np.iinfo(samples.dtype).min)
    if wave.ndim == 2:
        wave = wave.mean(1, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise RltrError(f"{path} has samples that are NaN or infinite")
    if own != rate:
        shared = math.gcd(own, rate)
        wave = resample_poly(wave, rate // shared, own // shared).astype(np.float32)
    return wave


def _read(path: Path) -> tuple[int, NDArray[Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that are no sound, such as titles
            rate, samples = wavfile.read(path)
    except Exception as error:  # a damaged header raises whatever the numbers in it lead to
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RltrError(f"{path} cannot be read as a .wav ({reason.rstrip('.')})") from error
    if len(samples) == 0:
        raise RltrError(f"{path} has no samples")
    return rate, samples


def _samples(path: Path, rate: int) -> int:
    """Samples of a file at another rate."""
    own, samples = _read(path)
    return -(-len(samples) * rate // own)


def load_sounds(model: PreTrainedModel, data: Path, source: str, options: DataOptions) -> Task:
    """Read a folder of .wav files, one subfolder per class.

    See :func:`rltr.tasks.class_folders.read_class_folders`; what is not in splits is divided by ``options.fractions``.

    Raises:
        RltrError: if the folder holds nothing of that kind, a class is empty, the classes do not fit the model's head,
            or the model's feature extractor cannot be loaded.
    """
    files = read_class_folders(data, SUFFIXES, ".wav files", options)
    extractor = load_part(AutoFeatureExtractor, source, "feature extractor", "a preprocessor_config.json")
    if extractor.model_input_names[0] != model.main_input_name:
        raise RltrError(
            f"the feature extractor of {source!r} makes {extractor.model_input_names[0]}, but {type(model).__name__} "
            f"takes {model.main_input_name}; save the model's own beside it"
        )
    labelling = read_labels((name for split in files.values() for name in split), model.config)

    def examples(split: str) -> SoundExamples:
        pairs = [(path, name) for name, paths in files[split].items() for path in paths]
        paths, labels = [path for path, _ in pairs], labelling([name for _, name in pairs])
        names = [path.relative_to(data).as_posix() for path in paths]
        made = SoundExamples(paths, labels, names, labelling.classes, extractor)
        made.goal = labelling.goal
        return made

    return assemble(list(files), examples, "audio", options, data)
