"""Models for sounds: inputs, exactness and a policy from files to its check."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.io import wavfile
from transformers import (
    Wav2Vec2FeatureExtractor,
)

from rltr.check.parity import parity, random_examples
from rltr.envs import make_episodes
from rltr.jobs.check import run_check
from rltr.jobs.training import run_train
from rltr.recipe import load_recipe
from rltr.runtime.backbone import Backbone
from rltr.system.folders import POLICY_FOLDER
from rltr.tasks import load_task
from rltr.tasks.models import load_model
from tests.sounds.conftest import MODELS, RATE

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


@pytest.mark.parametrize("name", MODELS)
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


@pytest.mark.parametrize("name", MODELS)
def test_an_answer_does_not_depend_on_the_batch(folder: Path, name: str) -> None:
    model = load_model(str(folder / name))
    examples = load_task(model, folder / "data").train
    with torch.no_grad():
        together = model(**examples.batch(range(5))).logits
        alone = torch.cat([model(**examples.batch([i])).logits for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_inputs_equal_those_of_the_feature_extractor(folder: Path) -> None:
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


def test_a_policy_is_trained_from_files_and_checked(folder: Path, tmp_path: Path, new_log: Callable[[], str]) -> None:
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
    assert ", accuracy " in new_log()
