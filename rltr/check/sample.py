"""Random inputs of the shape that a model takes."""

import inspect

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.system.device import move_inputs
from rltr.system.error_context import error_context

DEFAULT_LONGEST = 64
"""Default length of random texts and sounds, in tokens."""


def random_inputs(
    backbone: Backbone, rows: int, longest: int | None = None, seed: int = 0, ragged: bool = True
) -> dict[str, Tensor]:
    """Make random inputs for a model, of different lengths if the model supports padding.

    Args:
        backbone: the model.
        rows: number of inputs.
        longest: tokens of the longest text (special ones included) or sound; None takes 64, or the model's maximum for
            texts if it is lower. Images have the model's size.
        seed: seed of the random generator.
        ragged: whether texts and sounds have different lengths.

    Raises:
        RltrError: if the model needs inputs that cannot be generated from its config.
    """
    generator = torch.Generator().manual_seed(seed)
    make = {"pixel_values": _pixels, "input_ids": _texts, "input_values": _sound, "input_features": _features}
    config, name = backbone.config, _main_input(backbone.root, list(make))
    if name not in make:
        raise RltrError(f"{type(backbone.model).__name__} takes {name}, which rltr cannot generate: pass inputs=")
    with error_context(f"generating {name} from the config of {type(backbone.model).__name__}", "pass inputs="):
        inputs = make[name](config, rows, longest, generator, ragged and backbone.family.padded)
    parameters = inspect.signature(backbone.model.forward).parameters.values()
    needed = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    if missing := ", ".join(name for name in needed if name not in inputs):
        raise RltrError(f"{type(backbone.model).__name__} takes {missing}, which rltr cannot generate: pass inputs=")
    return move_inputs(inputs, backbone.device, backbone.dtype)


def _main_input(root: PreTrainedModel, known: list[str]) -> str:
    """Name of a model's main input. A part of a larger model may declare the whole model's, which it does not take."""
    parameters = inspect.signature(root.forward).parameters
    if root.main_input_name not in known or root.main_input_name in parameters:
        return root.main_input_name
    return next((name for name in known if name in parameters), root.main_input_name)


def _pixels(
    config: PreTrainedConfig, rows: int, longest: int | None, generator: torch.Generator, ragged: bool
) -> dict[str, Tensor]:
    if hasattr(config, "num_patches"):  # SigLIP-2 takes patches of images of any aspect ratio
        side = int(config.num_patches**0.5)
        shapes = torch.tensor([[side, side], *[[max(1, side // 2), side]] * (rows - 1)])
        present = torch.arange(config.num_patches) < shapes.prod(1)[:, None]
        pixels = torch.randn(rows, config.num_patches, config.num_channels * config.patch_size**2, generator=generator)
        return {"pixel_values": pixels, "pixel_attention_mask": present.long(), "spatial_shapes": shapes}
    size, channels = (
        config.image_size,
        getattr(config, "num_channels", 3),
    )  # not in the configs of BLIP and similar models
    height, width = (size, size) if isinstance(size, int) else size
    frames = (config.num_frames,) if hasattr(config, "num_frames") else ()
    inputs = {"pixel_values": torch.randn(rows, *frames, channels, height, width, generator=generator)}
    if hasattr(config, "mask_ratio"):  # ViT-MAE masks random patches in every pass unless given noise
        patches = (height // config.patch_size) * (width // config.patch_size)
        inputs["noise"] = torch.rand(rows, patches, generator=generator).argsort(
            1
        )  # ranks, since half precision has ties
    return inputs


def _texts(
    config: PreTrainedConfig, rows: int, longest: int | None, generator: torch.Generator, ragged: bool
) -> dict[str, Tensor]:
    longest = longest or min(DEFAULT_LONGEST, getattr(config, "max_position_embeddings", 66) - 2)
    present = _lengths(rows, longest, generator, ragged)
    padding = config.pad_token_id or 0
    ids = torch.randint(config.vocab_size - 1, (rows, longest), generator=generator)
    ids = ids + (ids >= padding)  # every token but padding
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < config.vocab_size:
        # Some heads look for the end token, and must find it before the padding.
        ids[torch.arange(rows), present.sum(1) - 1] = end
    return {"input_ids": ids.where(present, padding), "attention_mask": present.long()}


def _sound(
    config: PreTrainedConfig, rows: int, longest: int | None, generator: torch.Generator, ragged: bool
) -> dict[str, Tensor]:
    if not hasattr(config, "conv_stride"):  # a spectrogram of one size
        return {"input_values": torch.randn(rows, config.max_length, config.num_mel_bins, generator=generator)}
    samples = longest or DEFAULT_LONGEST
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    masked = config.feat_extract_norm == "layer"  # models with group norm were trained without a mask
    present = _lengths(rows, samples, generator, ragged and masked)
    sound = torch.randn(present.shape, generator=generator) * present
    return {"input_values": sound, "attention_mask": present.long()} if masked else {"input_values": sound}


def _features(
    config: PreTrainedConfig, rows: int, longest: int | None, generator: torch.Generator, ragged: bool
) -> dict[str, Tensor]:
    frames = 2 * config.max_source_positions
    return {"input_features": torch.randn(rows, config.num_mel_bins, frames, generator=generator)}


def _lengths(rows: int, longest: int, generator: torch.Generator, ragged: bool) -> Bool[Tensor, "rows longest"]:
    """Padding mask: the first row is full, the others have random lengths if ``ragged``."""
    lengths = torch.full((rows, 1), longest)
    if ragged and rows > 1:
        lengths[1:] = torch.randint(max(1, longest // 4), longest + 1, (rows - 1, 1), generator=generator)
    return torch.arange(longest) < lengths
