"""Every head, from files to a trained, evaluated and attached policy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPForImageClassification

import rltr
from rltr.check.parity import parity, random_examples
from rltr.envs import make_episodes
from rltr.errors import RltrError
from rltr.evaluate.results import read_json
from rltr.jobs.check import run_check
from rltr.jobs.evaluation import run_evaluate
from rltr.jobs.training import run_train
from rltr.recipe import load_recipe
from rltr.runtime.backbone import Backbone
from rltr.system.folders import POLICY_FOLDER
from rltr.tasks import DataOptions, load_task
from rltr.tasks.models import load_model
from tests.heads.conftest import CASES, IDS, TEXT, VISION, recipe, save

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")

WHOLE_WAY = ["tokens", "numbers", "embeddings", "zero-shot", "words without labels", "images without labels"]
"""Only some heads, because drawing figures takes time."""


@pytest.mark.parametrize("case", WHOLE_WAY)
def test_a_policy_is_trained_from_files_and_reported_with_its_quality(
    folder: Path, tmp_path: Path, case: str, new_log: Callable[[], str]
) -> None:
    *_, goal, name = CASES[case]
    column = name.replace(" ", "_")
    wanted = recipe(folder, tmp_path / "run", case)
    run = run_train(wanted).folder
    progress = next((run / "logs").rglob("progress.csv")).read_text().splitlines()[0]
    assert f"rltr/{column}" in progress and f"rltr/dense_{column}" in progress

    run_evaluate(run / POLICY_FOLDER, wanted.model_copy(update={"out": tmp_path / "measured"}))
    assert "look at it: open" in new_log()
    found = read_json(tmp_path / "measured" / "results.json")
    assert found.quality_name == name
    everything = next(point for point in found.points if point.method == "none")
    assert everything.quality_change == pytest.approx(0, abs=1e-5) and everything.agreement == 1
    assert all(point.quality <= 1 and 0 <= point.agreement <= 1 for point in found.points)
    header = (tmp_path / "measured" / "results.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {column, f"{column}_low", f"{column}_change"} <= set(header)
    assert (name == "accuracy") == ("accuracy" in header)
    page = (tmp_path / "measured" / "report.html").read_text(encoding="utf-8")
    assert f"<th>{name}</th>" in page and f"{name} of the native model" in page
    card = (run / POLICY_FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| {name} | dense {name} |" in card

    new_log()
    assert run_check(run / POLICY_FOLDER)
    assert f", {name} " in new_log()
    config = json.loads((run / POLICY_FOLDER / "config.json").read_text())
    config["recipe"]["data"]["source"] = "gone"
    (run / POLICY_FOLDER / "config.json").write_text(json.dumps(config))
    assert run_check(run / POLICY_FOLDER)  # on random inputs


@pytest.mark.parametrize("case", CASES)
def test_keeping_everything_loses_nothing(folder: Path, case: str) -> None:
    model, data, options, goal, _ = CASES[case]
    kind = options.get("kind")
    backbone = Backbone(load_model(str(folder / model), kind))
    own = {name: value for name, value in options.items() if name != "kind"}
    task = load_task(backbone.model, folder / data, kind=kind, options=DataOptions((0.5, 0.25, 0.25), **own))
    assert task.train.goal == task.validation.goal == task.test.goal and isinstance(task.train.goal, goal)
    for examples in (task.test, random_examples(backbone, 6, 9)):
        found = parity(backbone, examples.batch(range(len(examples))), [0, 2], goal=examples.goal)
        assert found.holds, found
    episodes = make_episodes(backbone, task.train, rows=4)
    episodes.reset()
    for _ in range(episodes.steps):
        _, _, ended = episodes.step(torch.ones(4, episodes.grid, dtype=torch.bool))
    assert ended and episodes.outcome is not None
    # Scores are relative to the spread of a tiny model's answers, which is small, so rounding errors are larger.
    torch.testing.assert_close(episodes.outcome.score, torch.zeros(4), atol=1e-4, rtol=0)
    episodes.close()


def test_a_part_of_a_classifier_is_reduced(folder: Path, tmp_path: Path) -> None:
    names = {"id2label": {0: "old_tea", 1: "red_tea"}, "label2id": {"old_tea": 0, "red_tea": 1}}
    model = str(tmp_path / "model")
    save(
        CLIPForImageClassification(CLIPConfig(text_config={**TEXT, **IDS}, vision_config=VISION, **names)), Path(model)
    )
    values = recipe(folder, tmp_path / "run", "zero-shot").model_dump(mode="json")
    values["data"]["kind"] = "image"
    with pytest.raises(RltrError, match="choose one with tower=: vision_model"):
        run_train(load_recipe({**values, "model": {"source": model}}))
    run = run_train(load_recipe({**values, "model": {"source": model, "tower": "vision_model"}})).folder
    assert run_check(run / POLICY_FOLDER)
    whole, images = load_model(model), torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        native = whole(pixel_values=images).logits
        with rltr.attach(whole, run / POLICY_FOLDER, cost_weight=8.0) as attached:
            reduced = whole(pixel_values=images).logits
        assert attached.kept is not None and attached.kept.total < 4 * 17 and not torch.equal(reduced, native)
        assert torch.equal(whole(pixel_values=images).logits, native)
