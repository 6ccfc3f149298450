"""Sound files of every format, sampling rate and number of channels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.io import wavfile

from rltr.errors import RltrError
from rltr.tasks.read.sound_files import SUFFIXES, count_samples, read_sound
from tests.sounds.conftest import RATE, wave

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_sample_format_gives_the_same_sound(tmp_path: Path, dtype: Any, channels: int) -> None:
    sound = wave(400, 500)
    stored = sound.astype(dtype)
    if np.dtype(dtype).kind == "i":
        stored = (sound * np.iinfo(dtype).max).astype(dtype)
    elif dtype is np.uint8:
        stored = np.round(128 + 127 * sound).astype(np.uint8)
    wavfile.write(tmp_path / "x.wav", RATE, np.stack([stored] * channels, 1) if channels > 1 else stored)
    np.testing.assert_allclose(read_sound(tmp_path / "x.wav", RATE, "x"), sound, atol=0.01)


@pytest.mark.parametrize("suffix", sorted(own.removeprefix(".") for own in SUFFIXES))
def test_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    sound = wave(RATE, 500)
    form, sub = {
        "aif": ("AIFF", None), "aifc": ("AIFF", None), "oga": ("OGG", None), "opus": ("OGG", "OPUS"),
        "snd": ("AU", None), "sph": ("NIST", "PCM_16"), "wave": ("WAV", None),
    }.get(suffix, (suffix.upper(), None))  # fmt: skip
    soundfile.write(tmp_path / f"x.{suffix}", sound, RATE, format=form, subtype=sub)
    found = read_sound(tmp_path / f"x.{suffix}", RATE, "x")
    assert count_samples(tmp_path / f"x.{suffix}", RATE, "x") == len(found)
    middle = slice(2000, 14000)
    assert float(np.corrcoef(found[middle], sound[middle])[0, 1]) > 0.99


def test_sounds_are_resampled_to_the_models_rate(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "x.wav", 4 * RATE, wave(4000, 500, 4 * RATE))
    found = read_sound(tmp_path / "x.wav", RATE, "x")
    assert found.shape == (1000,) and found.dtype == np.float32
    np.testing.assert_allclose(found[100:-100], wave(1000, 500)[100:-100], atol=0.01)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "x cannot be read as a sound"), (b"RIFF....WAVEfmt ", "cannot be read"), (b"ID3 an mp3", "cannot be read")],
)
def test_files_without_sound_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    for read in (read_sound, count_samples):
        with pytest.raises(RltrError, match=said):
            read(tmp_path / "x.wav", RATE, "x")


def test_empty_and_nan_sounds_are_refused(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "empty.wav", RATE, np.zeros(0, np.int16))
    with pytest.raises(RltrError, match="no samples"):
        read_sound(tmp_path / "empty.wav", RATE, "x")
    wavfile.write(tmp_path / "nan.wav", RATE, np.full(10, np.nan, np.float32))
    with pytest.raises(RltrError, match="NaN or infinite"):
        read_sound(tmp_path / "nan.wav", RATE, "x")
