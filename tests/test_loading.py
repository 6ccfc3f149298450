"""Loaded models are frozen and in evaluation mode; others are refused in one line with the reason."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)
from transformers.utils import logging

from rltr.errors import RltrError
from rltr.system.device import available_devices, pick_device
from rltr.tasks.models import load_model

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small saved models: ``vit``, ``bert``, ``headless`` and ``writer``."""
    folder = tmp_path_factory.mktemp("models")
    vit = ViTConfig(**SMALL, image_size=8, patch_size=4, num_labels=3)
    ViTForImageClassification(vit).save_pretrained(folder / "vit")
    ViTModel(vit).save_pretrained(folder / "headless")
    BertForSequenceClassification(BertConfig(**SMALL, vocab_size=50)).save_pretrained(folder / "bert")
    GPT2LMHeadModel(
        GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9, bos_token_id=0, eos_token_id=0)
    ).save_pretrained(folder / "writer")
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved ViT, to be damaged."""
    ViTForImageClassification.from_pretrained(saved / "vit").save_pretrained(tmp_path / "copy")
    return tmp_path / "copy"


def refusal(source: str | Path, kind: str | None = None) -> str:
    with pytest.raises(RltrError) as refused:
        load_model(str(source), kind)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(("name", "kind"), [("vit", "image"), ("bert", "text")])
def test_a_loaded_model_is_frozen(saved: Path, name: str, kind: str) -> None:
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    model = load_model(str(saved / name))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == (bars, level)
    other = "text" if kind == "image" else "image"
    assert f"takes {kind} inputs" in refusal(saved / name, other)


def test_a_missing_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"looked for {str(Path.cwd() / 'nothing/there/at-all')!r}): no such folder" in refusal(
        "./nothing/there/at-all"
    )
    assert "has no config.json" in refusal(tmp_path)
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file")
    # What HF_HUB_OFFLINE=1 sets when the process starts.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "not in the local cache, and HF_HUB_OFFLINE is set" in refusal("nobody/nothing")


def test_models_without_a_trained_head_are_refused(saved: Path, copy: Path) -> None:
    assert "is a ViTModel, without a classification head" in refusal(saved / "headless")
    assert "is a GPT2LMHeadModel, without a classification head" in refusal(saved / "writer")
    # The config has a head, but there are no weights for it.
    (copy / "model.safetensors").write_bytes((saved / "headless" / "model.safetensors").read_bytes())
    assert "no trained weights for classifier.bias" in refusal(copy)


def test_damaged_models_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    assert "do not fit its config.json" in refusal(copy)
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").write_bytes(b"not a tensor")
    assert "cannot be loaded" in refusal(copy)
    (copy / "config.json").write_text("{")
    assert "cannot be loaded" in refusal(copy)


def test_pickles_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "stored as a pickle" in refusal(copy)


def test_devices_are_found_by_name_and_others_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert str(pick_device("auto")) in available_devices()
    for wrong in ("cuda:63", "meta", "gpu", ""):
        with pytest.raises(RltrError, match="valid here: auto, cpu"):
            pick_device(wrong)
