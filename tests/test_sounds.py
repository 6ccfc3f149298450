"""Sounds: files and tables of them, and models that hear them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
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

from rltr.check.parity import parity, random_examples
from rltr.envs import make_episodes
from rltr.errors import RltrError
from rltr.jobs.check import run_check
from rltr.jobs.training import run_train
from rltr.recipe import load_recipe
from rltr.runtime.backbone import Backbone
from rltr.system.folders import POLICY_FOLDER
from rltr.tasks import DataOptions, load_task
from rltr.tasks.examples.base import Subset
from rltr.tasks.examples.sounds import SoundExamples
from rltr.tasks.goals import Consistency
from rltr.tasks.models import load_model
from rltr.tasks.read.sound_files import SUFFIXES, count_samples, read_sound

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")

RATE = 16_000
SIZE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
NAMES = {"id2label": {0: "high", 1: "low"}, "label2id": {"high": 0, "low": 1}}
EARS: dict[str, Any] = {
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


def ears(name: str) -> tuple[PreTrainedModel, Any]:
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
        return HubertForSequenceClassification(HubertConfig(**EARS, feat_extract_norm="layer")), extractor
    norm = "layer" if masked else "group"
    return Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**EARS, feat_extract_norm=norm)), extractor


KINDS_OF_EARS = ["wav2vec2", "wav2vec2 without mask", "hubert", "ast", "whisper"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    torch.manual_seed(0)
    for name in KINDS_OF_EARS:
        model, extractor = ears(name)
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


@pytest.mark.parametrize("name", KINDS_OF_EARS)
def test_keeping_everything_loses_nothing(folder: Path, name: str) -> None:
    model = load_model(str(folder / name))
    task = load_task(model, folder / "data")
    assert task.kind == "audio" and task.train.classes == ["high", "low"]
    assert [label == 1 for label in task.train.labels.tolist()] == [own.startswith("low/") for own in task.train.names]
    backbone = Backbone(model)
    for examples in (task.train, random_examples(backbone, 3, 12)):
        inputs = examples.batch(range(min(3, len(examples))))
        found = parity(backbone, inputs, [0, 2], goal=examples.goal)
        assert found.holds, found
    episodes = make_episodes(backbone, task.train, rows=4)
    episodes.seed(range(4))
    episodes.reset()
    for _ in range(episodes.steps):
        episodes.step(torch.rand(4, episodes.grid) < 0.5)
    assert episodes.outcome is not None and bool(episodes.outcome.score.isfinite().all())
    # A single row of three tokens may pay more for the decision than it saves.
    assert float(episodes.outcome.cost.mean()) < 1
    episodes.close()


@pytest.mark.parametrize("name", KINDS_OF_EARS)
def test_an_answer_does_not_depend_on_the_batch(folder: Path, name: str) -> None:
    model = load_model(str(folder / name))
    examples = load_task(model, folder / "data").train
    with torch.no_grad():
        together = model(**examples.batch(range(5))).logits
        alone = torch.cat([model(**examples.batch([i])).logits for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_inputs_are_what_the_extractor_makes_of_a_batch(folder: Path) -> None:
    examples = load_task(load_model(str(folder / "wav2vec2")), folder / "data").train
    lengths = examples.lengths()
    assert lengths is not None
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder / "wav2vec2")
    waves = [wavfile.read(folder / "data" / examples.names[i])[1] for i in (0, 1)]
    expected = extractor(waves, sampling_rate=RATE, padding=True, return_tensors="pt")
    found = examples.batch([0, 1])
    torch.testing.assert_close(found["input_values"], expected["input_values"])
    assert torch.equal(found["attention_mask"], expected["attention_mask"].long())
    assert found["attention_mask"].sum(1).tolist() == [lengths[i] for i in (0, 1)]


def test_from_files_to_a_checked_policy(folder: Path, tmp_path: Path, told: Callable[[], str]) -> None:
    values = {
        "model": {"source": str(folder / "wav2vec2")},
        "data": {"source": str(folder / "data"), "fractions": [0.5, 0.25, 0.25]},
        "cost": {"kind": "flops"},
        "learner": {"rollouts": 16, "batch": 8, "group_size": 2},
        "device": "cpu",
        "out": str(tmp_path / "run"),
    }
    run = run_train(load_recipe(values)).folder
    assert run_check(run / POLICY_FOLDER)
    assert ", accuracy " in told()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_the_same_sound(tmp_path: Path, dtype: Any, channels: int) -> None:
    sound = wave(400, 500)
    stored = sound.astype(dtype)
    if np.dtype(dtype).kind == "i":
        stored = (sound * np.iinfo(dtype).max).astype(dtype)
    elif dtype is np.uint8:
        stored = np.round(128 + 127 * sound).astype(np.uint8)
    wavfile.write(tmp_path / "x.wav", RATE, np.stack([stored] * channels, 1) if channels > 1 else stored)
    np.testing.assert_allclose(read_sound(tmp_path / "x.wav", RATE, "x"), sound, atol=0.01)


@pytest.mark.parametrize("suffix", sorted(own.removeprefix(".") for own in SUFFIXES))
def test_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    sound = wave(RATE, 500)
    form, sub = {
        "aif": ("AIFF", None), "aifc": ("AIFF", None), "oga": ("OGG", None), "opus": ("OGG", "OPUS"),
        "snd": ("AU", None), "sph": ("NIST", "PCM_16"), "wave": ("WAV", None),
    }.get(suffix, (suffix.upper(), None))  # fmt: skip
    soundfile.write(tmp_path / f"x.{suffix}", sound, RATE, format=form, subtype=sub)
    found = read_sound(tmp_path / f"x.{suffix}", RATE, "x")
    assert count_samples(tmp_path / f"x.{suffix}", RATE, "x") == len(found)
    middle = slice(2000, 14000)
    assert float(np.corrcoef(found[middle], sound[middle])[0, 1]) > 0.99


def test_a_sound_is_brought_to_the_models_rate(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "x.wav", 4 * RATE, wave(4000, 500, 4 * RATE))
    found = read_sound(tmp_path / "x.wav", RATE, "x")
    assert found.shape == (1000,) and found.dtype == np.float32
    np.testing.assert_allclose(found[100:-100], wave(1000, 500)[100:-100], atol=0.01)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "x cannot be read as a sound"), (b"RIFF....WAVEfmt ", "cannot be read"), (b"ID3 an mp3", "cannot be read")],
)
def test_files_that_are_no_sounds(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    for read in (read_sound, count_samples):
        with pytest.raises(RltrError, match=said):
            read(tmp_path / "x.wav", RATE, "x")


def test_sounds_that_say_nothing(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "empty.wav", RATE, np.zeros(0, np.int16))
    with pytest.raises(RltrError, match="no samples"):
        read_sound(tmp_path / "empty.wav", RATE, "x")
    wavfile.write(tmp_path / "nan.wav", RATE, np.full(10, np.nan, np.float32))
    with pytest.raises(RltrError, match="NaN or infinite"):
        read_sound(tmp_path / "nan.wav", RATE, "x")


def test_what_a_folder_of_sounds_must_be(folder: Path, tmp_path: Path) -> None:
    model = load_model(str(folder / "wav2vec2"))
    (tmp_path / "low").mkdir()
    (tmp_path / "low" / "x.mid").write_bytes(b"")
    with pytest.raises(RltrError, match=r"no sounds in .*low \(looked for \.aif .* \.wav \.wave; there are \.mid 1\)"):
        load_task(model, tmp_path)
    with pytest.raises(RltrError, match="returns input_features, but Wav2Vec2For.* takes input_values"):
        load_task(model, folder / "data", source=str(folder / "whisper"))


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2 without mask", "ast"])
def test_bad_sounds_are_named_and_left_out_if_asked(
    folder: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, model = tmp_path / "data", load_model(str(folder / name))
    shutil.copytree(folder / "data", data)
    whole = load_task(model, data)
    (data / "low" / "4.wav").write_bytes(b"RIFF")
    wavfile.write(data / "high" / "5.wav", RATE, np.full(99_999, np.nan, np.float32))
    with pytest.raises(RltrError, match=r"(low/4|high/5)\.wav .*data\.bad_inputs=skip"):
        task = load_task(model, data)
        for split in (task.train, task.validation, task.test):
            split.batch(range(len(split)))
    task = load_task(model, data, options=DataOptions(bad_inputs="skip"))
    assert "left out 2 of 20 examples" in caplog.text
    for split, before in ((task.train, whole.train), (task.validation, whole.validation), (task.test, whole.test)):
        assert split.names == [own for own in before.names if own not in ("low/4.wav", "high/5.wav")]
        rows = split.batch(range(len(split)))[model.main_input_name]
        assert bool(rows.isfinite().all()) and (name == "ast" or rows.shape[1] <= 2900)


@pytest.mark.parametrize("labels", ["read", "none"])
@pytest.mark.parametrize("name", KINDS_OF_EARS)
def test_a_click_is_named_and_left_out_if_asked(
    folder: Path, tmp_path: Path, name: str, labels: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Shorter than what one token is made of: padded beside others it would be noise, alone it ended the training."""
    data, model = tmp_path / "data", load_model(str(folder / name))
    shutil.copytree(folder / "data", data)
    for place, samples in (("low/4.wav", 1), ("high/5.wav", 79), ("high/7.wav", 80)):
        wavfile.write(data / place, RATE, wave(samples, 500))
    model.train()
    task = load_task(model, data, options=DataOptions(labels=labels, bad_inputs="skip"))
    assert model.training
    model.eval()
    with torch.no_grad():
        for split in (task.train, task.validation, task.test):
            for i in range(len(split)):
                assert bool(model(**split.batch([i])).logits.isfinite().all())
    names = {name for split in (task.train, task.validation, task.test) for name in split.names}
    if name == "whisper":  # whose extractor brings every sound to one size
        assert len(names) == 20
        return
    if name == "ast":  # so does this one, but for what is shorter than a window of its own
        assert "high/7.wav cannot be prepared for the model (" in caplog.text and len(names) == 17
        return
    assert not {"low/4.wav", "high/5.wav"} & names and "high/7.wav" in names
    assert "high/5.wav is too short for the model, whose output is empty for 4.94 ms; it takes 5" in caplog.text
    with pytest.raises(RltrError, match=r"(low/4|high/5)\.wav is too short .*data\.bad_inputs=skip"):
        strict = load_task(model, data, options=DataOptions(labels=labels))
        for split in (strict.train, strict.validation, strict.test):
            split.lengths()  # what a training asks for before it measures anything


def test_what_an_extractor_refuses_has_the_files_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_task(load_model(str(folder / "ast")), folder / "data").train
    assert isinstance(whole, Subset) and isinstance(whole.examples, SoundExamples)
    own = whole.examples
    fresh = SoundExamples(own.files, own.labels, own.names, own.classes, own.extractor)
    monkeypatch.setattr(ASTFeatureExtractor, "__call__", lambda *_, **__: 1 / 0)
    assert f"{own.names[5]} cannot be prepared for the model (division by zero)" in str(fresh.fault(5))
    with pytest.raises(RltrError, match=rf"{own.names[5]} cannot be prepared for the model \(.*data\.bad_inputs=skip"):
        fresh.batch([5])


def test_a_fingerprint_follows_the_files_and_who_decodes_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = tmp_path / "data", load_model(str(folder / "wav2vec2"))
    shutil.copytree(folder / "data", data)
    first, again = (load_task(model, data).train.fingerprint() for _ in range(2))
    wavfile.write(data / "low" / "4.wav", RATE, wave(1234, 300))
    changed = load_task(model, data).train.fingerprint()
    monkeypatch.setattr("soundfile.__libsndfile_version__", "0.0.1")
    assert first == again and len({first, changed, load_task(model, data).train.fingerprint()}) == 3


def tabled(folder: Path, damaged: int | None = None) -> Any:
    """The folder's sounds as a table, in the order of the folder's own examples; one of them damaged, if asked."""
    datasets = pytest.importorskip("datasets")
    files = sorted((folder / "data").rglob("*.wav"))
    stored = [b"RIFF" if i == damaged else path.read_bytes() for i, path in enumerate(files)]
    sounds = [{"bytes": content, "path": path.name} for content, path in zip(stored, files, strict=True)]
    table = datasets.Dataset.from_dict({"audio": sounds, "label": [path.parent.name for path in files]})
    return table.cast_column("audio", datasets.Audio())


def test_a_table_of_sounds_is_the_folder_of_them(folder: Path, tmp_path: Path) -> None:
    model, table = load_model(str(folder / "wav2vec2")), tabled(folder)
    table.to_parquet(tmp_path / "sounds.parquet")
    expected = load_task(model, folder / "data")
    for data in (table, table.to_iterable_dataset(), tmp_path / "sounds.parquet"):
        options = DataOptions(seed=0, stream_examples=20)
        task = load_task(model, data, options=options)
        assert task.kind == "audio" and task.train.classes == expected.train.classes
        rows = {
            examples.batch([i])["input_values"].numpy().tobytes(): int(examples.labels[i])
            for examples in (task.train, task.validation, task.test)
            for i in range(len(examples))
        }
        assert rows == {
            examples.batch([i])["input_values"].numpy().tobytes(): int(examples.labels[i])
            for examples in (expected.train, expected.validation, expected.test)
            for i in range(len(examples))
        }
    assert load_task(model, table).train.fingerprint() == load_task(model, table).train.fingerprint() is not None


def test_sounds_without_labels(folder: Path) -> None:
    model, options = load_model(str(folder / "hubert")), DataOptions((0.5, 0.25, 0.25), labels="none")
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"audio": [str(path) for path in sorted((folder / "data").rglob("*.wav"))]})
    table = table.cast_column("audio", datasets.Audio(decode=False))
    for data in (folder / "data", table):
        task = load_task(model, data, source=str(folder / "hubert"), options=options)
        assert task.kind == "audio" and isinstance(task.train.goal, Consistency) and len(task.train) == 10
        assert task.train.classes == ["high", "low"] and task.train.batch([0])["input_values"].shape[0] == 1
    with pytest.raises(RltrError, match="no sounds in"):
        load_task(model, folder / "hubert", options=options)


def test_bad_sounds_in_a_table(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, table = load_model(str(folder / "wav2vec2")), tabled(folder)
    with pytest.raises(RltrError, match=r"the column 'label' holds .*, not sounds; see data\.audio_column"):
        load_task(model, table, options=DataOptions(audio_column="label"))
    broken = tabled(folder, damaged=19)
    task = load_task(model, broken)
    with pytest.raises(RltrError, match=r"row\[19\] cannot be read as a sound .*data\.bad_inputs=skip"):
        for split in (task.train, task.validation, task.test):
            split.batch(range(len(split)))
    task = load_task(model, broken, options=DataOptions(bad_inputs="skip"))
    assert "left out 1 of 20 examples" in caplog.text
    assert sum(map(len, (task.train, task.validation, task.test))) == 19


def test_ready_made_inputs_of_different_lengths(folder: Path) -> None:
    model = load_model(str(folder / "wav2vec2"))
    examples = load_task(model, folder / "data").train
    inputs = {name: value.numpy() for name, value in examples.batch(range(len(examples))).items()}
    task = load_task(model, {**inputs, "label": examples.labels.numpy()})
    lengths, before = task.train.lengths(), examples.lengths()
    assert task.kind == "audio" and lengths is not None and before is not None and set(lengths) <= set(before)
    assert int(task.train.batch([task.train.longest()])["attention_mask"].sum()) == max(lengths)


def test_little_memory_is_enough(folder: Path) -> None:
    examples = load_task(load_model(str(folder / "ast")), folder / "data").train
    assert isinstance(examples, Subset) and isinstance(examples.examples, SoundExamples)
    examples = examples.examples
    few = SoundExamples(examples.files, examples.labels, examples.names, examples.classes, examples.extractor, 2000)
    for i in (0, 1, 0, 5, 0):
        assert torch.equal(few.batch([i])["input_values"], examples.batch([i])["input_values"])
