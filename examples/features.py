"""Features of texts from the frozen MiniLM, computed once and cached."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from examples.assets import sha256
from examples.splits import NAMES
from rltr.system.files import atomic_write
from rltr.tasks.examples.texts import TextExamples

BATCH = 16


@dataclass(frozen=True)
class Features:
    """The last hidden states of one split, pooled to one vector per text.

    Attributes:
        first: hidden state of the first token (CLS) ``(texts, width)``.
        mean: mean hidden state of all tokens ``(texts, width)``.
        labels: class numbers ``(texts,)``.
    """

    first: Float[Tensor, "texts width"]
    mean: Float[Tensor, "texts width"]
    labels: Int[Tensor, " texts"]


@torch.inference_mode()
def compute(encoder: PreTrainedModel, texts: TextExamples, name: str = "") -> Features:
    """Run a frozen encoder on all texts, batched by similar length to reduce padding."""
    lengths = texts.lengths()
    order = sorted(range(len(texts)), key=lambda i: -lengths[i])
    first = torch.empty(len(texts), encoder.config.hidden_size)
    mean = torch.empty_like(first)
    for start in tqdm(range(0, len(order), BATCH), name, mininterval=10):
        rows = order[start : start + BATCH]
        inputs = texts.batch(rows)
        hidden = encoder(**inputs).last_hidden_state
        present = inputs["attention_mask"].to(hidden.dtype)[..., None]
        first[rows] = hidden[:, 0]
        mean[rows] = (hidden * present).sum(1) / present.sum(1)
    return Features(first, mean, texts.labels)


def cached(
    encoder: PreTrainedModel, splits: dict[str, TextExamples], data: Path, weights: str, file: Path
) -> dict[str, Features]:
    """Features of all splits: read from ``file`` if data and weights are unchanged, else computed and written there.

    Args:
        encoder: the frozen encoder.
        splits: the texts in ``data``, by split.
        data: the folder of the ``.jsonl`` files.
        weights: hash of the encoder's weights.
        file: the safetensors file.
    """
    source = hashlib.sha256("".join([weights, *(sha256(data / f"{name}.jsonl") for name in NAMES)]).encode())
    made_of = {"made_of": source.hexdigest()}
    if file.is_file():
        with safe_open(file, "pt") as stored:
            if stored.metadata() == made_of:
                get = stored.get_tensor
                return {n: Features(*(get(f"{n}.{kind}") for kind in ("first", "mean", "labels"))) for n in NAMES}
    found = {name: compute(encoder, splits[name], name) for name in NAMES}
    tensors = {f"{name}.{kind}": tensor for name, part in found.items() for kind, tensor in vars(part).items()}
    with atomic_write(file) as temporary:
        save_file(tensors, temporary, made_of)
    return found
