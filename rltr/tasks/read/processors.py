"""Load the image processor, feature extractor or tokenizer of a saved model."""

import os
from typing import Any

from rltr.errors import RltrError


def load_part(loader: Any, source: str, what: str, files: str, **options: Any) -> Any:
    """Call ``loader.from_pretrained``, and turn its errors into a one-line ``RltrError``.

    Args:
        loader: ``AutoImageProcessor``, ``AutoTokenizer``, …
        source: a model's folder or hub id. ``HF_HUB_OFFLINE`` is respected by transformers itself.
        what: the name of the part, for messages.
        files: the files that it is normally stored in, for messages.
        **options: for ``from_pretrained``. Code that comes with a model is never run.

    Raises:
        RltrError: if it is missing, not readable, or needs a package that is not installed.
    """
    try:
        return loader.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception, a missing one a TypeError, and so on
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if os.path.isdir(source):
            cure = f"the folder should hold {files}; save it there with {what.replace(' ', '_')}.save_pretrained"
        else:
            cure = "check the name and the network; with HF_HUB_OFFLINE=1 the model must be in the cache already"
        raise RltrError(
            f"the model's {what} could not be loaded from {source!r}: {reason.rstrip('.')}; {cure}"
        ) from error
