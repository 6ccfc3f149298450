"""Sounds from folders, tables and arrays, with and without labels, and their fingerprints."""

import shutil
from pathlib import Path

import pytest
import torch
from scipy.io import wavfile

from rltr.errors import RltrError
from rltr.tasks import DataOptions, load_task
from rltr.tasks.examples.base import Subset
from rltr.tasks.examples.sounds import SoundExamples
from rltr.tasks.goals import Consistency
from rltr.tasks.models import load_model
from tests.sounds.conftest import RATE, tabled, wave

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


def test_a_fingerprint_depends_on_the_files_and_the_decoder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = tmp_path / "data", load_model(str(folder / "wav2vec2"))
    shutil.copytree(folder / "data", data)
    first, again = (load_task(model, data).train.fingerprint() for _ in range(2))
    wavfile.write(data / "low" / "4.wav", RATE, wave(1234, 300))
    changed = load_task(model, data).train.fingerprint()
    monkeypatch.setattr("soundfile.__libsndfile_version__", "0.0.1")
    assert first == again and len({first, changed, load_task(model, data).train.fingerprint()}) == 3


def test_a_table_of_sounds_equals_the_folder(folder: Path, tmp_path: Path) -> None:
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


def test_sounds_without_labels_are_read(folder: Path) -> None:
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


def test_prepared_inputs_of_different_lengths_are_read(folder: Path) -> None:
    model = load_model(str(folder / "wav2vec2"))
    examples = load_task(model, folder / "data").train
    inputs = {name: value.numpy() for name, value in examples.batch(range(len(examples))).items()}
    task = load_task(model, {**inputs, "label": examples.labels.numpy()})
    lengths, before = task.train.lengths(), examples.lengths()
    assert task.kind == "audio" and lengths is not None and before is not None and set(lengths) <= set(before)
    assert int(task.train.batch([task.train.longest()])["attention_mask"].sum()) == max(lengths)


def test_inputs_do_not_depend_on_the_cache_size(folder: Path) -> None:
    examples = load_task(load_model(str(folder / "ast")), folder / "data").train
    assert isinstance(examples, Subset) and isinstance(examples.examples, SoundExamples)
    examples = examples.examples
    few = SoundExamples(examples.files, examples.labels, examples.names, examples.classes, examples.extractor, 2000)
    for i in (0, 1, 0, 5, 0):
        assert torch.equal(few.batch([i])["input_values"], examples.batch([i])["input_values"])
