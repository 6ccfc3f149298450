"""Write safetensors files, with failed writes as ``OSError`` instead of safetensors' own error."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file as save
from torch import Tensor


def save_file(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name.

    Raises:
        OSError: if the file cannot be written, with error number and path.
    """
    try:
        save({name: value.contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
