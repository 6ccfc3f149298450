"""Experiment trackers: what a training sends, under which names, and errors."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.logger import Image

from rltr.errors import RltrError
from rltr.recipe import load_recipe
from rltr.train.trackers import refuse_missing, training_logger


class Stub(ModuleType):
    """Fake tracker package that records its calls."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = sys.__spec__
        self.begun: dict[str, Any] = {}
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **about: Any) -> "Stub":
        self.begun = about
        return self

    def Image(self, pixels: Any) -> tuple[str, Any]:  # noqa: N802 - as trackers call it
        return "picture", np.asarray(pixels).shape

    def log(self, values: dict[str, Any], step: int) -> None:
        self.sent.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture(params=["trackio", "wandb"])
def stub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub(request.param)
    monkeypatch.setitem(sys.modules, request.param, stub)
    monkeypatch.delenv(f"{request.param.upper()}_PROJECT", raising=False)
    return stub


def test_scalars_and_pictures_are_sent(stub: Stub, tmp_path: Path) -> None:
    settings = load_recipe().model_dump(mode="json")
    refuse_missing([stub.__name__])
    logger = training_logger(tmp_path, ["tensorboard", stub.__name__], "mine-0", settings)
    logger.record("rltr/accuracy", 0.5)
    logger.record("mine/numpy", np.float32(0.25))
    logger.record("train/note", "words are not sent")
    logger.record("rltr/secret", 1.0, exclude=(stub.__name__,))
    logger.record("rltr/kept/0", Image(np.zeros((4, 8, 3), np.uint8), "HWC"), exclude=("csv", "stdout"))
    logger.dump(step=24)
    logger.close()
    assert stub.begun == {"project": "rltr", "name": "mine-0", "config": settings}
    assert stub.sent == [(24, {"rltr/accuracy": 0.5, "mine/numpy": 0.25, "rltr/kept/0": ("picture", (4, 8, 3))})]
    assert stub.finished == 1
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"progress", "events"}


def test_the_environment_names_the_project(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{stub.__name__.upper()}_PROJECT", "thesis")
    training_logger(tmp_path, [stub.__name__], "mine-0", {}).close()
    assert stub.begun["project"] == "thesis"
    assert {path.name for path in tmp_path.iterdir()} == {"progress.csv"}


def test_a_tracker_that_does_not_start_is_refused(stub: Stub, tmp_path: Path) -> None:
    def init(**about: Any) -> None:
        raise ValueError("no API key")

    stub.init = init  # type: ignore[method-assign, assignment]
    with pytest.raises(RltrError, match=rf"{stub.__name__} does not start \(no API key\); fix that, or leave"):
        training_logger(tmp_path, [stub.__name__], "mine-0", {})


def test_trackers_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RltrError, match="report_to names wandb, which is not installed: `pip install wandb`"):
        refuse_missing(["tensorboard", "wandb"])
    refuse_missing(["tensorboard"])
