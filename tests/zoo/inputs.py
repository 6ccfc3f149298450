"""Batches of four inputs for tiny models, by kind."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.zoo.entry import TEXT, Entry

LENGTHS = (12, 7, 9, 4)
"""Tokens of the four texts of a padded batch."""
END = TEXT["eos_token_id"]


def batch(entry: Entry, padding: str = "none", seed: int = 1) -> dict[str, Tensor]:
    """Four inputs: of equal length without padding, otherwise of :data:`LENGTHS`."""
    return INPUTS[entry.inputs](padding, torch.Generator().manual_seed(seed))


def _present(padding: str, lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    longest = max(lengths)
    if padding == "none":
        return torch.ones(len(lengths), longest, dtype=torch.bool)
    present = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return present if padding == "right" else present.flip(1)


def _texts(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    present = _present(padding)
    ids = torch.randint(5, 50, present.shape, generator=generator)
    inputs = {"input_ids": ids * present}
    return inputs if padding == "none" else {**inputs, "attention_mask": present.long()}


def _captions(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Texts that end with the end-of-text token."""
    inputs, present = _texts(padding, generator), _present(padding)
    inputs["input_ids"][torch.arange(4), present.sum(1) - 1] = END
    if padding == "none":
        inputs["input_ids"][1, 6] = END  # it may come before the end
    return inputs


def _pairs(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Texts that end with one end-of-text token, and inputs of the decoder beside the encoder."""
    inputs, present = _texts(padding, generator), _present(padding)
    inputs["input_ids"][torch.arange(4), present.sum(1) - 1] = END
    return inputs | _for_a_decoder(generator, present.shape[1])


def _for_a_decoder(generator: torch.Generator, length: int = 3) -> dict[str, Tensor]:
    return {"decoder_input_ids": torch.randint(5, 50, (4, length), generator=generator)}


def _patches(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    shapes = torch.tensor([[4, 4]] * 4 if padding == "none" else [[4, 4], [2, 3], [3, 4], [2, 2]])
    present = _present(padding if padding == "right" else "none", tuple(shapes.prod(1).tolist()))
    pixels = torch.randn(4, 16, 48, generator=generator)
    return {"pixel_values": pixels, "pixel_attention_mask": present.long(), "spatial_shapes": shapes}


def _patch_images(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Images of which some have fewer rows of patches."""
    inputs = {"pixel_values": torch.randn(4, 3, 16, 16, generator=generator)}
    if padding == "none":
        return inputs
    present = torch.arange(4) < torch.tensor([4, 2, 3, 2])[:, None]
    return inputs | {"patch_attention_mask": present[:, :, None].expand(4, 4, 4).clone()}


def _waves(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    waves = torch.randn(4, 150, generator=generator)
    if padding == "none":
        return {"input_values": waves}
    present = torch.arange(150) < torch.tensor([150, 80, 110, 60])[:, None]
    return {"input_values": waves * present, "attention_mask": present.long()}


def _long_waves(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Moonshine takes 384 samples a token."""
    waves = torch.randn(4, 5200, generator=generator)
    if padding == "none":
        return {"input_values": waves} | _for_a_decoder(generator)
    present = torch.arange(5200) < torch.tensor([5200, 2700, 3500, 1600])[:, None]
    return {"input_values": waves * present, "attention_mask": present.long()} | _for_a_decoder(generator)


def _codec_waves(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    """One channel of sound, and a mask under the codec's own name."""
    waves = torch.randn(4, 1, 48, generator=generator)
    if padding == "none":
        return {"input_values": waves}
    present = torch.arange(48) < torch.tensor([48, 24, 36, 16])[:, None]
    return {"input_values": waves * present[:, None], "padding_mask": present.long()}


def _frames(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Frames of a spectrogram; two convolution layers make one token of four frames."""
    frames = torch.randn(4, 48, 8, generator=generator)
    if padding == "none":
        return {"input_features": frames} | _for_a_decoder(generator)
    present = torch.arange(48) < torch.tensor([48, 28, 36, 16])[:, None]
    return {"input_features": frames, "attention_mask": present.long()} | _for_a_decoder(generator)


INPUTS: dict[str, Callable[[str, torch.Generator], dict[str, Tensor]]] = {
    "images": lambda _, generator: {"pixel_values": torch.randn(4, 3, 16, 16, generator=generator)},
    "masked images": lambda _, generator: {
        "pixel_values": torch.randn(4, 3, 24, 24, generator=generator),
        "noise": torch.rand(4, 36, generator=generator),
    },
    "videos": lambda _, generator: {"pixel_values": torch.randn(4, 4, 3, 16, 16, generator=generator)},
    "patches": _patches,
    "patch images": _patch_images,
    "spectrograms": lambda _, generator: {"input_values": torch.randn(4, 16, 16, generator=generator)},
    "mel": lambda _, generator: {"input_features": torch.randn(4, 8, 40, generator=generator)},
    "waves": _waves,
    "long waves": _long_waves,
    "codec waves": _codec_waves,
    "frames": _frames,
    "texts": _texts,
    "captions": _captions,
    "pairs": _pairs,
}
"""Batches by kind; called with the side of the padding and a generator."""
