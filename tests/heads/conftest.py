"""Saved tiny models and data for every head, as a user has them, and a recipe for each."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from rltr.recipe import Recipe, load_recipe
from rltr.tasks.goals import Consistency, Embedding, MultiLabel, Regression, TokenClassification, ZeroShot

SIZE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ann", "lives", "in", "old", "rome", "bob", "likes", "red", "tea"]


def tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    own = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    own.pre_tokenizer = Whitespace()
    own.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=own, model_max_length=16, **special, **options)


def save(model: PreTrainedModel, folder: Path) -> str:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    if model.main_input_name == "pixel_values" or hasattr(model, "vision_model"):
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    if model.main_input_name == "input_ids":
        tokenizer().save_pretrained(folder)
    return str(folder)


def bert(**head: Any) -> BertConfig:
    return BertConfig(**SIZE, vocab_size=len(WORDS), max_position_embeddings=16, **head)


VISION = {**SIZE, "image_size": 16, "patch_size": 4}


TEXT = {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 16}


IDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def clip() -> CLIPModel:
    towers = {"text_config": {**TEXT, **IDS, "projection_dim": 8}, "vision_config": {**VISION, "projection_dim": 8}}
    return CLIPModel(CLIPConfig(**towers, projection_dim=8))


def siglip() -> SiglipModel:
    return SiglipModel(SiglipConfig(text_config={**TEXT, **IDS, "projection_size": 16}, vision_config=VISION))


def llama(**head: Any) -> LlamaConfig:
    return LlamaConfig(**TEXT, num_key_value_heads=1, bos_token_id=2, eos_token_id=3, pad_token_id=0, **head)


TAGS = {"id2label": {0: "O", 1: "NAME", 2: "PLACE"}, "label2id": {"O": 0, "NAME": 1, "PLACE": 2}}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved models and data of every kind."""
    folder = tmp_path_factory.mktemp("heads")
    save(BertForTokenClassification(bert(**TAGS)), folder / "tagger")
    save(LlamaForTokenClassification(llama(**TAGS)), folder / "decoder")
    left = tokenizer(padding_side="left", model_input_names=["input_ids", "attention_mask"])
    left.save_pretrained(folder / "decoder")
    save(BertForSequenceClassification(bert(num_labels=1)), folder / "rater")
    topics = {"id2label": {0: "food", 1: "travel"}, "label2id": {"food": 0, "travel": 1}}
    save(BertForSequenceClassification(bert(**topics, problem_type="multi_label_classification")), folder / "topics")
    save(BertModel(bert()), folder / "embedder")
    vit = ViTConfig(**SIZE, image_size=16, patch_size=4, num_labels=1)
    save(ViTForImageClassification(vit), folder / "guesser")
    save(ViTModel(vit), folder / "seer")
    save(clip(), folder / "clip")
    save(siglip(), folder / "siglip")

    sentences: list[tuple[list[str], list[Any]]] = [
        (["ann", "lives", "in", "old", "rome"], ["NAME", "O", "O", "O", "PLACE"])
    ]
    sentences += [(["bob", "likes", "red-ish", "tea"], ["NAME", "O", -100, "O"]), (["tea"], ["O"])]
    tagged = [{"tokens": words, "tags": labels} for words, labels in sentences * 10]
    (folder / "tagged.jsonl").write_text("\n".join(map(json.dumps, tagged)))
    texts = [" ".join(words) for words, _ in sentences]
    rows = [(text, i / 7, ["food", "food|travel", ""][i % 3]) for i, text in enumerate(texts * 10)]
    with (folder / "rated.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "stars", "topic"), *rows])
    (folder / "topics.jsonl").write_text(
        "\n".join(
            json.dumps({"text": text, "label": [["food"], ["food", "travel"]][i % 2]})
            for i, (text, *_) in enumerate(rows)
        )
    )
    (folder / "plain.txt").write_text("\n".join(texts * 10) + "\n\n")
    generator = torch.Generator().manual_seed(0)
    for i in range(20):
        pixels = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8).numpy()
        for place in (folder / "aged" / f"{i % 4 + 0.5}", folder / "drinks" / ["red_tea", "old_tea"][i % 2]):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


CASES: dict[str, tuple[str, str, dict[str, Any], type, str]] = {
    "tokens": (
        "tagger",
        "tagged.jsonl",
        {"text_column": "tokens", "label_column": "tags"},
        TokenClassification,
        "token accuracy",
    ),
    "tokens of a decoder": (
        "decoder",
        "tagged.jsonl",
        {"text_column": "tokens", "label_column": "tags"},
        TokenClassification,
        "token accuracy",
    ),
    "numbers": ("rater", "rated.csv", {"label_column": "stars"}, Regression, "D²"),
    "several labels": ("topics", "topics.jsonl", {}, MultiLabel, "label accuracy"),
    "embeddings": ("embedder", "plain.txt", {"kind": "embedding"}, Embedding, "cosine"),
    "numbers of images": ("guesser", "aged", {}, Regression, "D²"),
    "zero-shot": ("clip", "drinks", {"template": "ann likes {}"}, ZeroShot, "accuracy"),
    "zero-shot by SigLIP": ("siglip", "drinks", {}, ZeroShot, "accuracy"),
    "texts without labels": ("topics", "plain.txt", {"labels": "none"}, Consistency, "consistency"),
    "words without labels": ("tagger", "plain.txt", {"labels": "none"}, Consistency, "consistency"),
    "numbers without labels": ("rater", "rated.csv", {"labels": "none"}, Consistency, "consistency"),
    "images without labels": ("guesser", "drinks", {"labels": "none"}, Consistency, "consistency"),
    "image embeddings": ("seer", "aged", {"kind": "embedding", "pooling": "cls"}, Embedding, "cosine"),
}


def recipe(folder: Path, out: Path, case: str) -> Recipe:
    model, data, options, _, _ = CASES[case]
    values = {
        "model": {"source": str(folder / model)},
        "data": {"source": str(folder / data), "fractions": [0.5, 0.25, 0.25], **options},
        "cost": {"kind": "flops"},
        "learner": {"rollouts": 16, "batch": 8, "group_size": 2},
        "evaluation": {"cost_weights": [0.01, 4.0], "keep_rates": [0.5], "methods": ["random"], "batch_size": 16},
        "device": "cpu",
        "out": str(out),
    }
    return load_recipe(values)
