"""What is timed: a ViT-B/16 and a BERT-base with random weights, in batches of 64 and 320; small ones for a trial."""

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
    """A model and a batch for it, both on the device that is measured.

    Attributes:
        model: its name.
        backbone: the model.
        inputs: a batch without padding.
        batch: inputs in it.
        tokens: of each input.
    """

    model: str
    backbone: Backbone
    inputs: dict[str, Tensor]
    batch: int
    tokens: int

    @property
    def name(self) -> str:
        """In words."""
        dtype = str(self.backbone.dtype).removeprefix("torch.")
        return f"{self.model}, {self.batch} x {self.tokens} tokens, {dtype}"

    def native_seconds(self) -> float:
        """Of one native pass; the first, which warms up, is not timed."""
        native = partial(self.backbone.model, **self.backbone.uncached(self.inputs))
        with torch.inference_mode():
            native()
            return timed(native, self.backbone.device)[1]


@dataclass(frozen=True)
class Models:
    """The models, each of one weight for all cases.

    Attributes:
        images: reads images.
        texts: reads texts.
        small: whether they are stand-ins for a trial.
    """

    images: Backbone
    texts: Backbone
    small: bool

    @classmethod
    def on(cls, device: torch.device, dtype: torch.dtype, small: bool) -> "Models":
        """Both, on a device."""
        images, texts = (tiny_vit(dtype), tiny_bert(dtype)) if small else (vit_base(dtype), bert_base(dtype))
        return cls(moved(images, device), moved(texts, device), small)

    def cases(self, batches: Sequence[int], lengths: Sequence[int]) -> Iterator[Case]:
        """The smaller batches first: if time runs out, it is the larger ones that are left out."""
        names = ("small ViT", "small BERT") if self.small else ("ViT-B/16", "BERT-base")
        for batch in batches:
            yield _case(names[0], self.images, noise(self.images, batch), tokens_per_row(self.images))
            for length in lengths:
                yield _case(names[1], self.texts, words(self.texts, batch, length), length)


def moved(backbone: Backbone, device: torch.device) -> Backbone:
    """The backbone, its model moved to a device."""
    nn.Module.to(backbone.model, device)
    return backbone


def _case(name: str, backbone: Backbone, inputs: dict[str, Tensor], tokens: int) -> Case:
    batch = len(next(iter(inputs.values())))
    return Case(name, backbone, move_inputs(inputs, backbone.device, backbone.dtype), batch, tokens)
