"""Heads and recipes of the examples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from rltr.errors import RltrError
from rltr.recipe import load_recipe
from rltr.tasks.models import load_model
from tests.examples.conftest import ROOT, example


def features(count: int = 600) -> Any:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    state = torch.randn(count, 16, generator=generator) * 0.1 + labels[:, None] * 0.3 + 5
    return example("features").Features(state, state + 1, labels)


def test_a_head_learns_and_equals_its_plain_pooler() -> None:
    heads, given = example("train_head"), features()
    head = heads.fit(given, 2)
    assert heads.accuracy(head(given.first), given.labels) > 0.9
    assert heads.linear_accuracy(given, given, 2) > 0.9
    weight, bias = head.plain_pooler()
    logits = head.classifier((given.first @ weight.T + bias).tanh())
    torch.testing.assert_close(logits, head(given.first), rtol=1e-4, atol=1e-4)


def test_the_saved_classifier_is_the_encoder_with_the_head(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = BertModel(BertConfig(**sizes, vocab_size=20, max_position_embeddings=8)).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    heads = example("train_head")
    head = heads.fit(features(), 2)
    heads.classifier(tmp_path / "encoder", head, ["ham", "spam"]).save_pretrained(tmp_path / "saved")
    loaded = load_model(str(tmp_path / "saved"))
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        wanted = head(encoder(**inputs).last_hidden_state[:, 0])
        torch.testing.assert_close(loaded(**inputs).logits, wanted, rtol=1e-4, atol=1e-4)
    assert loaded.config.id2label == {0: "ham", 1: "spam"}


def test_missing_data_is_refused_with_the_command_that_makes_it(
    no_assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = example("train_head")
    monkeypatch.setattr(heads, "find", lambda asset, folder: no_assets)
    with pytest.raises(RltrError, match="python -m examples.make_data vader"):
        heads.train("vader", None, no_assets, 0)


@pytest.mark.parametrize("name", ["spam", "vader"])
def test_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(ROOT / "examples" / f"{name}.yaml")
    assert recipe.model.source == f"runs/examples/minilm-{name}" and recipe.data.source == f"runs/examples/{name}"
    assert name != "spam" or recipe.evaluation.gallery == 0  # no mail is shown
