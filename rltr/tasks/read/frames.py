"""Conversion of pandas DataFrames to objects of ``datasets``."""

from collections.abc import Mapping
from typing import Any


def from_frames(data: Any) -> Any:
    """Convert a DataFrame, or a mapping of them by split, to an object of ``datasets``; return anything else unchanged.

    The index of a DataFrame is dropped. ``datasets`` is imported only if there is a DataFrame.
    """
    frames = list(data.values()) if isinstance(data, Mapping) else [data]
    if not frames or not all(map(_is_frame, frames)):
        return data
    import datasets

    made = [datasets.Dataset.from_pandas(frame, preserve_index=False) for frame in frames]
    return datasets.DatasetDict(zip(data, made, strict=True)) if isinstance(data, Mapping) else made[0]


def _is_frame(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "pandas" and type(value).__name__ == "DataFrame"
