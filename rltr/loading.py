"""Loading a frozen model: by folder, by hub id, or the embedded one.

The loader is transformers' own; what is added is that every way it can fail ends in one line that says what to do, and
that a model which would answer at random (a head without trained weights) is refused instead of warned about.
Only safetensors files are read, never a pickle, and no code from a checkpoint is run.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import huggingface_hub
import huggingface_hub.errors
import huggingface_hub.utils
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import logging

from rltr.errors import RltrError
from rltr.recipe import EMBEDDED

Kind = Literal["image", "text"]
"""What a model's inputs are."""

EMBEDDED_MODEL = Path(__file__).parent / "embedded" / "vit"
"""The folder of the model that comes with rltr."""
_AUTO = {"image": AutoModelForImageClassification, "text": AutoModelForSequenceClassification}
_HEADS: dict[str, Mapping[str, Sequence[str]]] = {
    "image": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "text": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}
_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    SafetensorError,
    huggingface_hub.errors.StrictDataclassError,
)
"""What transformers raises for a checkpoint that is missing, unreachable, damaged or unknown to it."""


def load_model(source: str, kind: Kind | None = None, device: torch.device | str = "cpu") -> PreTrainedModel:
    """Load a classification model, frozen, in evaluation mode and single precision.

    Args:
        source: ``embedded``, a folder that ``save_pretrained`` wrote, or a hub id. ``HF_HUB_OFFLINE`` is respected.
        kind: what the inputs are; None finds out from the checkpoint's head.
        device: where the weights go.

    Raises:
        RltrError: if there is no such model, it cannot be read, or it has no trained classification head of that kind.
    """
    place = _place(source)
    config = _config(source, place)
    found = _kind(source, config)
    if kind is not None and kind != found:
        raise RltrError(
            f"model {source!r} takes {found} inputs, but the data is of kind {kind!r}; name data that fits it"
        )
    if Path(place).is_dir() and not list(Path(place).glob("*.safetensors")) and list(Path(place).glob("*.bin")):
        raise RltrError(
            f"model {source!r} is stored as a pickle (.bin), which can run code when loaded; "
            "convert it once where you trust it: AutoModel…from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    try:
        with _quiet():
            model, info = _AUTO[found].from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # reported below instead, by name
                output_loading_info=True,
            )
    except _FAILURES as error:
        raise RltrError(_failure(source, error)) from error
    if mismatched := sorted(info["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise RltrError(
            f"model {source!r}: its weights do not fit its config.json; {name} is stored as {tuple(stored)}, "
            f"expected {tuple(expected)}. Save the model again, or restore the file"
        )
    if missing := sorted(info["missing_keys"]):
        raise RltrError(
            f"model {source!r} has no trained weights for {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}; "
            f"it would answer at random. Fine-tune it first, and save it as {_AUTO[found].__name__}"
        )
    model.requires_grad_(False)
    return model.eval().to(device)


def _place(source: str) -> str:
    """What transformers is to load from: ``source``, with ``embedded`` and ``~`` replaced."""
    if source == EMBEDDED:
        if not EMBEDDED_MODEL.is_dir():
            raise RltrError("the embedded model is not in this installation of rltr; install it again")
        return str(EMBEDDED_MODEL)
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise RltrError(f"model folder {source!r} has no config.json; name a folder that save_pretrained() wrote")
        return str(path)
    if path.is_file():
        raise RltrError(f"model {source!r} is a file; name the folder that save_pretrained() wrote")
    # A hub id is `name` or `owner/name`; everything else can only have been meant as a folder.
    try:
        huggingface_hub.utils.validate_repo_id(source)
    except huggingface_hub.errors.HFValidationError:
        raise RltrError(
            f"model {source!r}: no such folder; name a folder, a hub id (owner/name) or {EMBEDDED!r}"
        ) from None
    return source


def _config(source: str, place: str) -> PreTrainedConfig:
    try:
        with _quiet():
            return AutoConfig.from_pretrained(place, trust_remote_code=False)
    except _FAILURES as error:
        raise RltrError(_failure(source, error)) from error


def _kind(source: str, config: PreTrainedConfig) -> Kind:
    architectures = config.architectures or []
    kinds: list[Kind] = ["image", "text"]
    for kind in kinds:
        names = _HEADS[kind].get(config.model_type, ())
        # One model type can have several classes (DeiT has two), then the table holds them all.
        heads = {names} if isinstance(names, str) else set(names)
        if heads & set(architectures) or (heads and not architectures):
            return kind
    raise RltrError(
        f"model {source!r} is a {', '.join(architectures) or config.model_type}, without a classification head; "
        f"rltr takes what {' or '.join(auto.__name__ for auto in _AUTO.values())} loads"
    )


def _failure(source: str, error: BaseException) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error, OSError) and "couldn't connect" in reason.lower():
        offline = huggingface_hub.is_offline_mode()
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        return (
            f"model {source!r}: no such folder, it is not in the local cache, and {why}; "
            f"name a folder, or fetch it once with network: hf download {source}"
        )
    return f"model {source!r} cannot be loaded: {reason[:300].rstrip('.')}"


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar for reading weights from disk and no retry messages; bars of real downloads stay."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    hub_level = huggingface_hub.utils.logging.get_verbosity()
    hub_bars = not huggingface_hub.utils.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # turns the hub's off, too
    if hub_bars:
        huggingface_hub.utils.enable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        huggingface_hub.utils.logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()
        if not hub_bars:
            huggingface_hub.utils.disable_progress_bars()
