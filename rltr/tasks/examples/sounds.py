"""Examples that are sounds, read, resampled and preprocessed when they are needed."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoFeatureExtractor, PreTrainedModel

from rltr.errors import RltrError
from rltr.system.device import move_inputs
from rltr.tasks.examples.base import Index
from rltr.tasks.examples.files import CACHE_BYTES, CURE, StoredExamples
from rltr.tasks.read.processors import load_part
from rltr.tasks.read.sound_files import count_samples, import_soundfile, read_sound
from rltr.tasks.read.stored_files import StoredFile


class SoundExamples(StoredExamples):
    """Sounds at the model's sampling rate; several channels are averaged.

    Args:
        files, labels, names, classes: see ``StoredExamples``.
        extractor: the model's own feature extractor.
        cache_bytes, identity: see ``StoredExamples``.
        shortest: minimum length of a sound, in samples at the model's sampling rate; see ``shortest_sound``.
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
        shortest: int = 1,
    ) -> None:
        super().__init__(files, labels, names, classes, cache_bytes, identity)
        self.shortest = shortest
        self.extractor = extractor
        self._unusable: set[int] = set()
        self._lengths: list[int] | None = None

    def batch(self, index: Index) -> dict[str, Tensor]:
        """See ``Examples``: the model's main input, ``(rows, samples)`` or ``(rows, frames, bins)``.

        A model that was trained with an ``attention_mask`` gets one, and rows padded to the longest of the batch. A
        model that was trained without (Wav2Vec2 with group norm) is affected by the padding. Its rows are therefore
        padded to the longest of the whole split, so that an answer does not depend on the batch.
        """
        name = self.extractor.model_input_names[0]
        rows = [self._prepared(i) for i in torch.as_tensor(index, dtype=torch.long).tolist()]
        if rows[0].ndim > 1:  # spectrograms, which the extractor pads or cuts to one size
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
        """See ``Examples``; in samples at the model's sampling rate."""
        if self._lengths is None:
            try:
                self._lengths = [0 if i in self._unusable else self._count(i) for i in range(len(self.files))]
            except RltrError as error:
                raise RltrError(f"{error}; {CURE}") from error
        return self._lengths

    def fault(self, i: int) -> str | None:
        """See ``Examples``; sounds with a fault are ignored when the other rows are padded."""
        fault = super().fault(i)
        if fault is not None:
            self._unusable.add(i)
        return fault

    def _facts(self) -> list[str]:
        return [type(self.extractor).__name__, self.extractor.to_json_string()]

    def _versions(self) -> list[str]:
        return [import_soundfile().__libsndfile_version__, scipy.__version__]

    def _read(self, i: int) -> Float[NDArray[np.float32], " samples"]:
        wave = read_sound(self.files[i], self.extractor.sampling_rate, self._called(i))
        self._refuse_short(i, len(wave))
        return wave

    def _count(self, i: int) -> int:
        count = count_samples(self.files[i], self.extractor.sampling_rate, self._called(i))
        self._refuse_short(i, count)
        return count

    def _refuse_short(self, i: int, samples: int) -> None:
        if samples < self.shortest:
            rate = self.extractor.sampling_rate / 1000
            raise RltrError(
                f"{self._called(i)} is too short for the model, whose output is empty for {samples / rate:.3g} ms; it "
                f"takes {self.shortest / rate:.3g}"
            )

    def _process(self, content: Float[NDArray[np.float32], " samples"]) -> Float[Tensor, "*shape"]:
        made = self.extractor(content, sampling_rate=self.extractor.sampling_rate, return_tensors="np")
        return torch.from_numpy(np.asarray(made[self.extractor.model_input_names[0]][0], dtype=np.float32))


def shortest_sound(model: PreTrainedModel, extractor: Any) -> int:
    """Number of samples of the shortest sound that a model accepts, found by bisection.

    It is 1 if the extractor brings every sound to one size. It is also 1 if the model does not even accept a second of
    noise; the error is then raised later, for the first sound.
    """
    noise = np.random.default_rng(0).standard_normal(extractor.sampling_rate).astype(np.float32)

    def takes(samples: int) -> bool:
        made = extractor(noise[:samples], sampling_rate=extractor.sampling_rate, return_tensors="pt")
        try:
            with torch.no_grad():
                output = model(**move_inputs(dict(made), model.device, model.dtype))
        except (RuntimeError, ValueError, IndexError):
            return False
        return bool(next(iter(output.values())).isfinite().all())

    was_training = model.training
    model.eval()  # in training mode some models mask spans of time, which fails for short sounds
    try:
        if not _is_wave(extractor, noise) or not takes(len(noise)):
            return 1
        return 1 + bisect_left(
            range(1, len(noise)), True, key=takes
        )  # a model that accepts a length accepts all longer ones
    finally:
        model.train(was_training)


def _is_wave(extractor: Any, noise: Float[NDArray[np.float32], " samples"]) -> bool:
    made = extractor(noise, sampling_rate=extractor.sampling_rate, return_tensors="np")
    return bool(np.ndim(made[extractor.model_input_names[0]][0]) == 1)


def load_extractor(model: PreTrainedModel, source: str) -> Any:
    """Load the model's feature extractor, and check that its output is the model's input and soundfile is installed."""
    import_soundfile()
    extractor = load_part(AutoFeatureExtractor, source, "feature extractor", "a preprocessor_config.json")
    if extractor.model_input_names[0] != model.main_input_name:
        raise RltrError(
            f"the feature extractor of {source!r} returns {extractor.model_input_names[0]}, but {type(model).__name__} "
            f"takes {model.main_input_name}; save the model's own feature extractor in its folder"
        )
    return extractor
