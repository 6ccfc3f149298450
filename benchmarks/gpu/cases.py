"""Timed cases: a ViT-B/16 and a BERT-base with random weights, in batches of 64 and 320; small models for a trial."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.models import bert_base, noise, tiny_bert, tiny_vit, tokens_per_row, vit_base, words
from rltr.runtime.backbone import Backbone
from rltr.system.device import move_inputs
from rltr.system.timing import timed

BATCHES = (64, 320)
LENGTHS = (128, 512)
SMALL_BATCHES = (4,)
SMALL_LENGTHS = (24,)


@dataclass(frozen=True)
class Case:
    """A model and a batch for it, both on the measured device.

    Attributes:
        model: name of the model.
        backbone: the model.
        inputs: a batch without padding.
        batch: number of inputs.
        tokens: number of tokens per input.
    """

    model: str
    backbone: Backbone
    inputs: dict[str, Tensor]
    batch: int
    tokens: int

    @property
    def name(self) -> str:
        """Name of the case in tables and results."""
        dtype = str(self.backbone.dtype).removeprefix("torch.")
        return f"{self.model}, {self.batch} x {self.tokens} tokens, {dtype}"

    def native_seconds(self) -> float:
        """Time one native pass, after one untimed pass."""
        native = partial(self.backbone.model, **self.backbone.uncached(self.inputs))
        with torch.inference_mode():
            native()
            return timed(native, self.backbone.device)[1]


@dataclass(frozen=True)
class Models:
    """The two models; all cases share them.

    Attributes:
        images: the image model.
        texts: the text model.
        small: whether these are the small models for a trial.
    """

    images: Backbone
    texts: Backbone
    small: bool

    @classmethod
    def on(cls, device: torch.device, dtype: torch.dtype, small: bool) -> "Models":
        """Build both models on a device."""
        images, texts = (tiny_vit(dtype), tiny_bert(dtype)) if small else (vit_base(dtype), bert_base(dtype))
        return cls(moved(images, device), moved(texts, device), small)

    def cases(self, batches: Sequence[int], lengths: Sequence[int]) -> Iterator[Case]:
        """Yield the cases, small batches first: if time runs out, the large ones are left out."""
        names = ("small ViT", "small BERT") if self.small else ("ViT-B/16", "BERT-base")
        for batch in batches:
            yield _case(names[0], self.images, noise(self.images, batch), tokens_per_row(self.images))
            for length in lengths:
                yield _case(names[1], self.texts, words(self.texts, batch, length), length)


def moved(backbone: Backbone, device: torch.device) -> Backbone:
    """Move the backbone's model to a device; return the backbone."""
    nn.Module.to(backbone.model, device)
    return backbone


def _case(name: str, backbone: Backbone, inputs: dict[str, Tensor], tokens: int) -> Case:
    batch = len(next(iter(inputs.values())))
    return Case(name, backbone, move_inputs(inputs, backbone.device, backbone.dtype), batch, tokens)
