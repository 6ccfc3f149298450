"""Zero-shot image classification with the two towers of CLIP and SigLIP.

The vision tower is reduced. The text tower runs once, when the data are read, and embeds the descriptions of the
classes. The vision tower is a separate model object that shares its weights with the full model, so a policy that is
attached to the tower makes the full model cheaper as well.
"""

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForZeroShotImageClassification,
    AutoTokenizer,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rltr.errors import RltrError
from rltr.recipe.data_options import DataOptions
from rltr.tasks.examples.base import Examples
from rltr.tasks.goals import ZeroShot
from rltr.tasks.goals.heads import Labelling, LabelReader
from rltr.tasks.goals.numbering import NUMERAL, Way
from rltr.tasks.inputs import load_labelled
from rltr.tasks.read.processors import load_part
from rltr.tasks.read.tables import Table

log = logging.getLogger(__name__)
Whole: TypeAlias = Any
"""A model with both towers; ``Any`` because transformers has no type for the parts used here."""
EMBEDDING = {"clip": ("image_embeds", "text_embeds"), "siglip": ("pooler_output", "pooler_output")}
"""The output fields with the image and the text embedding, by model type."""
CLASSES = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip_vision_model": "SiglipVisionModel",
}
"""The classes of full models and of their vision towers, by model type."""


def vision_tower(whole: Whole) -> PreTrainedModel:
    """The vision tower of a two-tower model, sharing its weights.

    Raises:
        RltrError: if the model type is not supported.
    """
    return _tower(whole, "vision_model", "visual_projection", CLIPVisionModelWithProjection)


def text_tower(whole: Whole) -> PreTrainedModel:
    """The text tower of a two-tower model, sharing its weights.

    Raises:
        RltrError: if the model type is not supported.
    """
    return _tower(whole, "text_model", "text_projection", CLIPTextModelWithProjection)


def _tower(whole: Whole, part: str, projection: str, with_projection: type[PreTrainedModel]) -> PreTrainedModel:
    _check(whole)
    tower: PreTrainedModel = getattr(whole, part)
    if whole.config.model_type == "clip":  # SigLIP's towers have no projection
        with torch.device("meta"):  # allocates nothing: all weights are taken from the full model below
            tower = with_projection(tower.config)
        for name in (part, projection):
            setattr(tower, name, getattr(whole, name))
    tower.name_or_path = whole.name_or_path
    return tower.train(whole.training)


def _check(whole: Whole) -> None:
    if whole.config.model_type not in EMBEDDING:
        raise RltrError(
            f"{type(whole).__name__} is not supported for zero-shot classification; supported model types: "
            f"{', '.join(EMBEDDING)}"
        )


@torch.no_grad()
def embed_texts(whole: Whole, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
    """Embed texts with the text tower; the result is on the CPU in float32."""
    # SigLIP was trained on texts padded to one length. It attends to the padding and pools the last position.
    seen = whole.config.model_type == "siglip"
    tower, longest = text_tower(whole), whole.text_model.config.max_position_embeddings
    tokens = tokenizer(
        list(texts),
        padding="max_length" if seen else True,
        truncation=True,
        max_length=longest,
        return_tensors="pt",
        return_attention_mask=not seen,
        return_token_type_ids=False,
    )
    output = tower(**{name: value.to(tower.device) for name, value in tokens.items()})
    embeddings: Tensor = output[EMBEDDING[whole.config.model_type][1]]
    return embeddings.float().cpu()


def zero_shot(whole: Whole, tokenizer: PreTrainedTokenizerBase, classes: Sequence[str], template: str) -> ZeroShot:
    """Build the zero-shot goal of some classes: embed their descriptions, and take over the logit scale and bias.

    Args:
        whole: the model with both towers.
        tokenizer: the model's own.
        classes: the names of the classes.
        template: the description of a class, with ``{}`` in place of its name.
    """
    anchors = embed_texts(whole, tokenizer, [template.replace("{}", name) for name in classes])
    bias = getattr(whole, "logit_bias", None)
    return ZeroShot(
        anchors,
        scale=float(whole.logit_scale.detach().exp()),
        bias=0.0 if bias is None else float(bias.detach()),
        output=EMBEDDING[whole.config.model_type][0],
    )


def load_zero_shot(
    model: PreTrainedModel, tables: Mapping[str, Table], source: str, options: DataOptions
) -> dict[str, Examples]:
    """Load labelled images by split for zero-shot classification; ``_`` in the name of a class is read as a space.

    Args:
        model: the vision tower (:func:`vision_tower`).
        tables: by split, each with a column of images and one of labels.
        source: the folder or hub id of the whole model.
        options: the names of the columns, and the ``template`` of a description.

    Raises:
        RltrError: if a column is missing or has the wrong type, there is only one class, or a part of the model
            cannot be loaded.
    """
    data = next(iter(tables.values())).data
    return load_labelled(model, tables, source, options, _reader(source, options, data), or_else="")


def _reader(source: str, options: DataOptions, data: str) -> LabelReader:
    """Load the full model, and return the function that numbers the classes and builds their goal."""
    auto = AutoModelForZeroShotImageClassification
    whole = load_part(auto, source, "model", "both towers", use_safetensors=True, dtype=torch.float32).eval()
    _check(whole)
    tokenizer = load_part(AutoTokenizer, source, "tokenizer", "a tokenizer.json and a tokenizer_config.json")

    def describe(names: Iterable[str], ways: Sequence[Way]) -> Labelling:
        written = sorted(set(names))
        if len(written) < 2:
            raise RltrError(
                f"{data} has only one class ({', '.join(written)}); zero-shot classification needs two or more"
            )
        if all(NUMERAL.fullmatch(name) for name in written):
            log.warning(
                "the classes are called %s, and these numbers are put into the descriptions (%r); if the classes have "
                "names, use the names as labels",
                ", ".join(written[:12]),
                options.template.replace("{}", written[0]),
            )
        # macOS decomposes accents in file names, and decomposed text is tokenized differently.
        classes = [unicodedata.normalize("NFC", name.replace("_", " ")) for name in written]
        number = {name: i for i, name in enumerate(written)}
        return Labelling(zero_shot(whole, tokenizer, classes, options.template), classes, number.__getitem__)

    return describe
