"""Read sound files with libsndfile, as one channel at the model's sampling rate."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.signal import resample_poly

from rltr.errors import RltrError
from rltr.tasks.read.stored_files import StoredFile, open_stored

SUFFIXES = {
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".rf64", ".voc", ".sph",
}  # fmt: skip
"""Suffixes of sounds that libsndfile decodes. Two that it opens are left out: a .raw has no sampling rate, and a .mat
is rarely a sound."""


def import_soundfile() -> Any:
    """Import the package ``soundfile``, which contains libsndfile.

    Raises:
        RltrError: if it is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise RltrError("sounds need the package soundfile, which is missing: pip install 'rltr[audio]'") from error
    return soundfile


def read_sound(file: StoredFile, rate: int, name: str) -> Float[NDArray[np.float32], " samples"]:
    """Read a sound as one channel between -1 and 1, with ``rate`` samples per second; several channels are averaged.

    Raises:
        RltrError: if it is not a sound, is damaged or empty, or has samples that are not finite; the message has its
            ``name``.
    """
    soundfile = import_soundfile()
    try:
        samples, own = soundfile.read(open_stored(file), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    if len(samples) == 0:
        raise RltrError(f"{name} has no samples")
    wave: NDArray[np.float32] = samples.mean(1, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise RltrError(f"{name} has samples that are NaN or infinite")
    if own != rate:
        shared = math.gcd(own, rate)
        wave = resample_poly(wave, rate // shared, own // shared).astype(np.float32)
    return wave


def count_samples(file: StoredFile, rate: int, name: str) -> int:
    """Number of samples that :func:`read_sound` would return, from the file's header.

    Raises:
        RltrError: if it is not a sound; the message has its ``name``.
    """
    soundfile = import_soundfile()
    try:
        about = soundfile.info(open_stored(file))
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    return -(-int(about.frames) * rate // int(about.samplerate))


def _unreadable(name: str, error: Exception) -> RltrError:
    # str(error) begins with the file, or the stream in memory; error_string has only the reason.
    reason = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return RltrError(f"{name} cannot be read as a sound ({reason.strip().rstrip('.')})")
