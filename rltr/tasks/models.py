"""Load a frozen model from a folder, from the hub, or the embedded one.

This wraps transformers' loaders in two ways. Every failure becomes a one-line error that says what to do. A model whose
head has no trained weights is refused, where transformers only warns.
Only safetensors files are read, never a pickle, and no code from a checkpoint is run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import huggingface_hub.utils
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from rltr.errors import RltrError
from rltr.recipe import EMBEDDED
from rltr.system.files import at_home, from_here
from rltr.tasks.load import KINDS

EMBEDDED_MODEL = Path(__file__).parents[1] / "embedded" / "vit"
"""The folder of the model that comes with rltr."""
_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    SafetensorError,
    huggingface_hub.errors.StrictDataclassError,
)
"""What transformers raises for a checkpoint that is missing, unreachable, damaged or unknown to it."""


def load_model(source: str, kind: str | None = None, device: torch.device | str = "cpu") -> PreTrainedModel:
    """Load a model with the head that a task needs, frozen, in evaluation mode and single precision.

    Args:
        source: ``embedded``, a folder that ``save_pretrained`` wrote, or a hub id. ``HF_HUB_OFFLINE`` is respected.
        kind: a name in ``rltr.tasks.KINDS``; None infers it from the checkpoint's head.
        device: where the weights are put.

    Raises:
        RltrError: if the model is not found, cannot be read, or has no trained head of that kind.
    """
    place = _place(source)
    config = _config(source, place)
    kind = _kind(source, config, kind)
    if Path(place).is_dir() and not list(Path(place).glob("*.safetensors")) and list(Path(place).glob("*.bin")):
        raise RltrError(
            f"model {source!r} is stored as a pickle (.bin), which can run code when loaded; "
            "convert it once where you trust it: AutoModel…from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    auto = KINDS[kind].auto
    model, info = _from_pretrained(auto, source, place, config)
    if info["missing_keys"] and all(name.startswith("pooler.") for name in info["missing_keys"]):
        # The checkpoint has no pooler and no task uses one. A randomly initialised one would make every load differ.
        model, info = _from_pretrained(auto, source, place, config, add_pooling_layer=False)
    if mismatched := sorted(info["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise RltrError(
            f"model {source!r}: its weights do not fit its config.json; {name} is stored with shape {tuple(stored)}, "
            f"expected {tuple(expected)}. Save the model again, or restore the file"
        )
    if missing := sorted(info["missing_keys"]):
        raise RltrError(
            f"model {source!r} has no trained weights for {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}; "
            f"its outputs would be random. Fine-tune it first, and save it as {auto.__name__}"
        )
    part = KINDS[kind].part
    model = model if part is None else part(model)
    model.requires_grad_(False)
    return model.eval().to(device)


def load_as_saved(source: str, device: torch.device | str = "cpu") -> PreTrainedModel:
    """Load a model as the class it was saved as, whatever its head, frozen and in evaluation mode.

    For exactness checks, not for tasks: parts without stored weights keep their random initialisation.

    Raises:
        RltrError: if the model is not found or cannot be read.
    """
    place = _place(source)
    config = _config(source, place)
    saved_as = getattr(transformers, (config.architectures or [""])[0], AutoModel)
    model, _ = _from_pretrained(saved_as, source, place, config)
    model.requires_grad_(False)
    loaded: PreTrainedModel = model.eval().to(device)
    return loaded


def _place(source: str) -> str:
    """The folder or hub id to pass to transformers: ``source``, with ``embedded`` and ``~`` replaced."""
    if source == EMBEDDED:
        if not EMBEDDED_MODEL.is_dir():
            raise RltrError("the embedded model is not in this installation of rltr; install it again")
        return str(EMBEDDED_MODEL)
    path = at_home(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise RltrError(f"model folder {source!r} has no config.json; name a folder that save_pretrained() wrote")
        return str(path)
    if path.is_file():
        raise RltrError(f"model {source!r} is a file; name the folder that save_pretrained() wrote")
    # A hub id is `name` or `owner/name`; anything else must have been meant as a folder.
    try:
        huggingface_hub.utils.validate_repo_id(source)
    except huggingface_hub.errors.HFValidationError:
        raise RltrError(
            f"model {from_here(source)}: no such folder; name a folder, a hub id (owner/name) or {EMBEDDED!r}"
        ) from None
    return source


def _config(source: str, place: str) -> PreTrainedConfig:
    try:
        with _quiet():
            return AutoConfig.from_pretrained(place, trust_remote_code=False)
    except _FAILURES as error:
        raise RltrError(_failure(source, error)) from error


def _from_pretrained(auto: Any, source: str, place: str, config: PreTrainedConfig, **options: Any) -> tuple[Any, Any]:
    try:
        with _quiet():
            loaded: tuple[Any, Any] = auto.from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # reported by name instead
                output_loading_info=True,
                **options,
            )
            return loaded
    except _FAILURES as error:
        raise RltrError(_failure(source, error)) from error


def _kind(source: str, config: PreTrainedConfig, asked: str | None) -> str:
    """The kind of task a checkpoint is for: the requested one if it fits, else the kind of its head."""
    if asked is not None and asked not in KINDS:
        raise RltrError(f"there is no task kind {asked!r}; choose one of {', '.join(KINDS)}")
    if asked is not None and KINDS[asked].asked and config.model_type in KINDS[asked].classes:
        return asked
    architectures = config.architectures or []
    for name, kind in KINDS.items():
        unknown = not architectures and config.model_type in kind.classes
        if not kind.asked and (unknown or any(kind.suits(config.model_type, own) for own in architectures)):
            if asked not in (None, name):
                raise RltrError(
                    f"model {source!r} takes {name} inputs, but the data is of kind {asked!r}; name data that fits it"
                )
            return name
    others = [name for name, kind in KINDS.items() if kind.asked and config.model_type in kind.classes]
    raise RltrError(
        f"model {source!r} is a {', '.join(architectures) or config.model_type}, without a classification head; "
        f"rltr takes what {' or '.join(kind.auto.__name__ for kind in KINDS.values() if not kind.asked)} loads"
        + "".join(f", or set data.kind={name}" for name in others)
    )


def _failure(source: str, error: BaseException) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error, OSError) and "couldn't connect" in reason.lower():
        offline = huggingface_hub.is_offline_mode()
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        return (
            f"model {from_here(source)}: no such folder, it is not in the local cache, and {why}; "
            f"name a folder, or fetch it once with network: hf download {source}"
        )
    return f"model {source!r} cannot be loaded: {reason[:300].rstrip('.')}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bar of reading weights from disk and retry messages; bars of downloads stay."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    hub_level = huggingface_hub.utils.logging.get_verbosity()
    hub_bars = not huggingface_hub.utils.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # also disables the hub's bars, which are enabled again below
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
