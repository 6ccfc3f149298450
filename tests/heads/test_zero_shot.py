"""Images among described classes: either tower can be reduced."""

from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, SiglipModel, ViTConfig, ViTModel

import rltr
from rltr.check.parity import parity
from rltr.envs import make_episodes
from rltr.errors import RltrError
from rltr.jobs.training import run_train
from rltr.runtime.backbone import Backbone
from rltr.system.folders import POLICY_FOLDER
from rltr.tasks import DataOptions, TensorExamples, load_task
from rltr.tasks.goals import ZeroShot
from rltr.tasks.models import load_model
from rltr.tasks.zero_shot import embed_texts, text_tower, vision_tower
from tests.heads.conftest import VISION, recipe, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_logits_are_those_of_the_whole_model(folder: Path, name: str) -> None:
    whole = (CLIPModel if name == "clip" else SiglipModel).from_pretrained(folder / name).eval()
    tower = load_model(str(folder / name))
    task = load_task(tower, folder / "drinks", kind="zero-shot", options=DataOptions(template="ann likes {}"))
    assert task.kind == "zero-shot" and task.train.classes == ["old tea", "red tea"]
    pixels = task.train.batch(range(4))
    padding = "max_length" if name == "siglip" else True
    texts = tokenizer()(["ann likes old tea", "ann likes red tea"], padding=padding, return_tensors="pt")
    texts.pop("token_type_ids", None)
    if name == "siglip":
        texts.pop("attention_mask")
    with torch.no_grad():
        expected = whole(**texts, **pixels).logits_per_image
        torch.testing.assert_close(task.train.goal.read(tower(**pixels), pixels), expected, rtol=1e-4, atol=1e-4)
    assert [name.split("/")[0] for name in task.train.names] == [
        task.train.classes[label].replace(" ", "_") for label in task.train.labels.tolist()
    ]


def test_reducing_the_vision_tower_reduces_the_whole_model(folder: Path, tmp_path: Path) -> None:
    run = run_train(recipe(folder, tmp_path / "run", "zero-shot")).folder
    whole = CLIPModel.from_pretrained(folder / "clip").eval()
    tower = vision_tower(whole)
    assert tower.vision_model is whole.vision_model and not any(value.is_meta for value in tower.state_dict().values())
    texts = tokenizer()(["red tea", "bob"], padding=True, return_tensors="pt")
    inputs = {"pixel_values": torch.randn(3, 3, 16, 16), **{key: texts[key] for key in ("input_ids", "attention_mask")}}
    with torch.no_grad():
        before = whole(**inputs)
        with rltr.attach(tower, run / POLICY_FOLDER, cost_weight=8.0) as attached:
            during = whole(**inputs)
            assert attached.kept is not None and attached.kept.total < 3 * 17
        after = whole(**inputs)
    assert torch.equal(before.logits_per_image, after.logits_per_image)
    assert not torch.equal(before.image_embeds, during.image_embeds)
    assert torch.equal(before.text_embeds, during.text_embeds)


def test_the_text_tower_can_be_reduced(folder: Path) -> None:
    whole = CLIPModel.from_pretrained(folder / "clip").eval()
    tower, images = text_tower(whole), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        anchors = vision_tower(whole)(pixel_values=images).image_embeds
    texts = tokenizer()(["ann lives in old rome", "bob likes tea", "red"], padding=True, return_tensors="pt")
    inputs = {key: texts[key] for key in ("input_ids", "attention_mask")}
    goal = ZeroShot(anchors, scale=10.0, output="text_embeds")
    examples = TensorExamples(torch.tensor([0, 1, 0]), list("abc"), ["first", "second"], inputs, goal=goal)
    backbone = Backbone(tower)
    assert parity(backbone, inputs, [0, 2], goal=goal).holds
    with torch.no_grad():
        torch.testing.assert_close(embed_texts(whole, tokenizer(), ["red"]), tower(**tokenizer_only("red")).text_embeds)
    episodes = make_episodes(backbone, examples, rows=4)
    episodes.reset()
    for _ in range(episodes.steps):
        episodes.step(torch.rand(4, episodes.grid) < 0.5)
    assert episodes.outcome is not None and bool(episodes.outcome.score.isfinite().all())
    episodes.close()


def tokenizer_only(text: str) -> dict[str, Tensor]:
    tokens = tokenizer()([text], return_tensors="pt")
    return {key: tokens[key] for key in ("input_ids", "attention_mask")}


def test_invalid_zero_shot_tasks_are_refused(folder: Path, tmp_path: Path) -> None:
    tower = load_model(str(folder / "clip"))
    (tmp_path / "tea").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "tea" / "1.png")
    with pytest.raises(RltrError, match="only one class"):
        load_task(tower, tmp_path, kind="zero-shot")
    with pytest.raises(RltrError, match="no {} for the name"):
        DataOptions(template="a photo")
    with pytest.raises(RltrError, match="model types: clip, siglip"):
        vision_tower(ViTModel(ViTConfig(**VISION)))


def test_numbers_as_class_names_give_a_warning_and_accents_are_composed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(str(folder / "clip"), "zero-shot")
    for names in (["0", "1"], ["the\u0301_red", "tea"]):
        data = tmp_path / names[0]
        for i in range(20):
            (data / names[i % 2]).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (10 * i, 0, 0)).save(data / names[i % 2] / f"{i}.png")
        task = load_task(model, data, str(folder / "clip"), "zero-shot")
    assert caplog.text.count("are put into the descriptions ('a photo of a 0.')") == 1
    assert "th\u00e9 red" in task.train.classes


def test_zero_shot_errors_do_not_suggest_training_without_labels(folder: Path, tmp_path: Path) -> None:
    model = load_model(str(folder / "clip"), "zero-shot")
    for data in (tmp_path, datasets.Dataset.from_dict({"image": [None]})):
        with pytest.raises(RltrError) as error:
            load_task(model, data, str(folder / "clip"), "zero-shot")
        assert "labels=none" not in str(error.value)
