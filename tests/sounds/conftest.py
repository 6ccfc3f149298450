"""Tiny models for sounds, and twenty sounds of two classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    HubertConfig,
    HubertForSequenceClassification,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)

RATE = 16_000
SIZE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
NAMES = {"id2label": {0: "high", 1: "low"}, "label2id": {"high": 0, "low": 1}}
WAV2VEC2: dict[str, Any] = {
    **SIZE,
    **NAMES,
    "conv_dim": (8, 8),
    "conv_stride": (10, 8),
    "conv_kernel": (10, 8),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}


def wave(samples: int, frequency: float, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)


def model_and_extractor(name: str) -> tuple[PreTrainedModel, Any]:
    """A tiny model for sounds and its feature extractor."""
    extractor: Any
    if name == "ast":
        size = {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 16}
        extractor = ASTFeatureExtractor(sampling_rate=RATE, num_mel_bins=16, max_length=16)
        return ASTForAudioClassification(ASTConfig(**SIZE, **NAMES, **size)), extractor
    if name == "whisper":
        config = WhisperConfig(
            **NAMES,
            d_model=16,
            encoder_layers=3,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_mel_bins=8,
            max_source_positions=50,
            classifier_proj_size=8,
        )
        return WhisperForAudioClassification(config), WhisperFeatureExtractor(8, RATE, chunk_length=1)
    masked = name != "wav2vec2 without mask"
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=masked)
    if name == "hubert":
        return HubertForSequenceClassification(HubertConfig(**WAV2VEC2, feat_extract_norm="layer")), extractor
    norm = "layer" if masked else "group"
    return Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**WAV2VEC2, feat_extract_norm=norm)), extractor


MODELS = ["wav2vec2", "wav2vec2 without mask", "hubert", "ast", "whisper"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved models, each with its feature extractor, and a folder of sounds per class."""
    folder = tmp_path_factory.mktemp("sounds")
    torch.manual_seed(0)
    for name in MODELS:
        model, extractor = model_and_extractor(name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder / name)
        extractor.save_pretrained(folder / name)
    for i in range(20):
        place = folder / "data" / ["low", "high"][i % 2]
        place.mkdir(parents=True, exist_ok=True)
        wavfile.write(place / f"{i}.wav", RATE, wave(1000 + 100 * i, [200, 2000][i % 2]))
    return folder


def tabled(folder: Path, damaged: int | None = None) -> Any:
    """The folder's sounds as a table, in the order of the folder's examples; one of them damaged, if given."""
    datasets = pytest.importorskip("datasets")
    files = sorted((folder / "data").rglob("*.wav"))
    stored = [b"RIFF" if i == damaged else path.read_bytes() for i, path in enumerate(files)]
    sounds = [{"bytes": content, "path": path.name} for content, path in zip(stored, files, strict=True)]
    table = datasets.Dataset.from_dict({"audio": sounds, "label": [path.parent.name for path in files]})
    return table.cast_column("audio", datasets.Audio())
