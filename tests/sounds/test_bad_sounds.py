"""Sounds that cannot be used are named, and left out with ``data.bad_inputs=skip``."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from transformers import (
    ASTFeatureExtractor,
)

from rltr.errors import RltrError
from rltr.tasks import DataOptions, load_task
from rltr.tasks.examples.base import Subset
from rltr.tasks.examples.sounds import SoundExamples
from rltr.tasks.models import load_model
from tests.sounds.conftest import MODELS, RATE, tabled, wave

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


def test_a_folder_without_sounds_and_another_extractor_are_refused(folder: Path, tmp_path: Path) -> None:
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
@pytest.mark.parametrize("name", MODELS)
def test_sounds_shorter_than_a_token_are_named_and_left_out_if_asked(
    folder: Path, tmp_path: Path, name: str, labels: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Padded beside others these sounds would be noise, and alone they ended the training."""
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
    if name == "whisper":  # its extractor pads every sound to one length
        assert len(names) == 20
        return
    if name == "ast":  # so does this one, except for sounds shorter than its window
        assert "high/7.wav cannot be prepared for the model (" in caplog.text and len(names) == 17
        return
    assert not {"low/4.wav", "high/5.wav"} & names and "high/7.wav" in names
    assert "high/5.wav is too short for the model, whose output is empty for 4.94 ms; it takes 5" in caplog.text
    with pytest.raises(RltrError, match=r"(low/4|high/5)\.wav is too short .*data\.bad_inputs=skip"):
        strict = load_task(model, data, options=DataOptions(labels=labels))
        for split in (strict.train, strict.validation, strict.test):
            split.lengths()  # called by a training before it measures anything


def test_errors_of_the_extractor_name_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_task(load_model(str(folder / "ast")), folder / "data").train
    assert isinstance(whole, Subset) and isinstance(whole.examples, SoundExamples)
    own = whole.examples
    fresh = SoundExamples(own.files, own.labels, own.names, own.classes, own.extractor)
    monkeypatch.setattr(ASTFeatureExtractor, "__call__", lambda *_, **__: 1 / 0)
    assert f"{own.names[5]} cannot be prepared for the model (division by zero)" in str(fresh.fault(5))
    with pytest.raises(RltrError, match=rf"{own.names[5]} cannot be prepared for the model \(.*data\.bad_inputs=skip"):
        fresh.batch([5])


def test_bad_sounds_in_a_table_are_named_and_left_out_if_asked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
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
