"""Inputs that cannot be used are named, left out only if asked, and never cost the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    Siglip2Config,
    Siglip2ForImageClassification,
    ViTImageProcessorPil,
)

from rltr.errors import RltrError
from rltr.tasks import DataOptions, load_task
from tests.conftest import logged_warnings
from tests.tasks.conftest import REVIEWS, SMALL, WORDS, bert, damage, find, head, no_image, paint, tokenizer, vit, write


def test_bad_images_are_left_out_if_asked(tmp_path: Path, animals: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    whole = load_task(model, animals)
    damage(animals / "dog" / "3.png")
    no_image(animals / "cat" / "5.png")
    task = load_task(model, animals, options=DataOptions(bad_inputs="skip"))
    parts, before = (task.train, task.validation, task.test), (whole.train, whole.validation, whole.test)
    for split, all_of_it in zip(parts, before, strict=True):
        # Nobody moves to another split, which would show what was trained on to the test.
        assert split.names == [name for name in all_of_it.names if name not in ("dog/3.png", "cat/5.png")]
        split.batch(range(len(split)))
    assert "left out 2 of 20 examples" in caplog.text and "dog/3.png" in caplog.text and "cat/5.png" in caplog.text


def test_the_cure_for_a_bad_image_is_said(tmp_path: Path, animals: Path) -> None:
    damage(animals / "dog" / "3.png")
    split, i = find(load_task(vit(tmp_path / "model", ["cat", "dog"]), animals), "dog/3.png")
    with pytest.raises(RltrError, match=r"dog/3\.png .*data\.bad_inputs=skip"):
        split.batch([i])
    with pytest.raises(RltrError, match="refuse or skip"):
        DataOptions(bad_inputs="hide")


def test_a_split_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split in ("train", "validation", "test"):
        paint(data / split / "cat" / "1.png")
        paint(data / split / "dog" / "2.png")
    for name in ("cat/1.png", "dog/2.png"):
        no_image(data / "test" / name)
    with pytest.raises(RltrError, match=r"none of the 2 examples of test can be used; the first: .*cat/1\.png"):
        load_task(vit(tmp_path / "model", ["cat", "dog"]), data, options=DataOptions(bad_inputs="skip"))


def test_empty_texts_are_left_out_if_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = bert(tmp_path / "model", ["bad", "good"])
    data = write(tmp_path / "x.csv", [*REVIEWS, (" ", "bad"), ("", "good")])
    with pytest.raises(RltrError, match=r"line 22: 'text' is empty; .*data\.bad_inputs=skip"):
        load_task(model, data)
    task = load_task(model, data, options=DataOptions(bad_inputs="skip"))
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 20
    assert "left out 2 of 22" in caplog.text and "x.csv, line 22 is empty" in caplog.text
    lines = [{"text": text, "label": label} for text, label in REVIEWS] + [{"text": None, "label": "good"}]
    task = load_task(model, write(tmp_path / "x.jsonl", lines), options=DataOptions(bad_inputs="skip"))
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path: Path, value: float, caplog: pytest.LogCaptureFixture) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    pixels = np.zeros((20, 3, 8, 8), np.float32)
    pixels[7, 0, 0, 0] = value
    data = {"pixel_values": pixels, "label": np.arange(20) % 2}
    with pytest.raises(RltrError, match=r"row\[7\]: pixel_values holds NaN or infinity; .*data\.bad_inputs=skip"):
        load_task(model, data)
    task = load_task(model, data, options=DataOptions(bad_inputs="skip"))
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 19 and "row[7]" in caplog.text


def test_broken_weights_are_named(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    with torch.no_grad():
        model.get_parameter("classifier.bias")[1] = torch.nan
    with pytest.raises(RltrError, match=r"weights classifier\.bias hold NaN or infinity"):
        load_task(model, animals)


def test_an_answer_that_overflows_is_said(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    with torch.no_grad():
        model.get_parameter("classifier.bias").fill_(3e38)
        model.get_parameter("classifier.weight").fill_(3e38)
        model.get_parameter("vit.layernorm.bias").fill_(9.0)
    with pytest.raises(RltrError, match=r"output for '.*png' is NaN or infinite"):
        load_task(model, animals)


def test_the_processor_of_another_model_is_refused(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    model.train()
    with pytest.raises(
        RltrError, match=r"cannot take these inputs \(pixel_values \(2, 3, 16, 16\)\).*processor"
    ) as error:
        load_task(model, animals)
    assert "\n" not in str(error.value) and model.training


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    model = bert(tmp_path / "model", ["bad", "good"])
    (tmp_path / "model" / "tokenizer.json").unlink()
    BertTokenizer(vocab={word: i for i, word in enumerate(reversed(WORDS))}).save_pretrained(tmp_path / "model")
    with pytest.raises(RltrError, match=r"pads with token 10 but the model with 0; likely cause"):
        load_task(model, write(tmp_path / "x.csv", REVIEWS))


def test_a_head_that_takes_no_batch_is_noticed_before_anything_runs(tmp_path: Path) -> None:
    """Decoders read the last token that is no padding; without a padding token they refuse more than one row."""
    small: dict[str, Any] = {
        "n_embd": 8,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 8,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    config = GPT2Config(**small, **head(["bad", "good"]), vocab_size=len(WORDS), pad_token_id=None)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer(tmp_path).save_pretrained(tmp_path / "model")
    model = GPT2ForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    data = write(tmp_path / "x.csv", REVIEWS)
    ids = np.array([[2, 5 + i % 3, 8, 3] for i in range(20)])
    for form in (data, {"input_ids": ids, "label": np.arange(20) % 2}):
        with pytest.raises(RltrError, match=r"has no padding token.* set model\.config\.pad_token_id"):
            load_task(model, form)
    model.config.pad_token_id = 0
    assert len(load_task(model, data).train) == 16


def test_that_texts_are_cut_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = bert(tmp_path / "model", ["no", "yes"], longest=8)
    fits = write(tmp_path / "fits.csv", [("film " * 6, "0"), ("fine", "1")] * 9)
    task = load_task(model, fits)
    task.train.batch(range(len(task.train)))
    assert not logged_warnings(caplog)
    task = load_task(model, write(tmp_path / "data.csv", [("fine", "0"), ("film " * 50, "1")] * 9))
    for split in (task.train, task.test, task.train):
        assert split.batch(range(len(split)))["input_ids"].shape[1] == 8
        assert max(split.lengths() or []) == 8
    said = "texts are cut to 8 tokens; one has 52"
    assert logged_warnings(caplog) == [said]


def test_texts_are_cut_to_what_is_asked(tmp_path: Path) -> None:
    model = bert(tmp_path / "model", ["no", "yes"], longest=20)
    data = write(tmp_path / "data.csv", [("fine", "0"), ("film " * 50, "1")] * 9)
    found = {}
    for asked, cut in ((6, 6), (20, 20), (99, 20), (None, 20)):
        task = load_task(model, data, options=DataOptions(max_tokens=asked))
        assert max(task.train.lengths() or []) == task.train.batch(range(len(task.train)))["input_ids"].shape[1] == cut
        found[asked] = task.train.fingerprint()
    assert found[6] != found[20] == found[99] == found[None]
    with pytest.raises(RltrError, match="max_tokens must be 3 or more"):
        DataOptions(max_tokens=2)


def test_models_of_images_of_any_shape_do_not_read_files(tmp_path: Path, animals: Path) -> None:
    vision = {**SMALL, "num_patches": 16, "patch_size": 4}
    text = {**SMALL, "vocab_size": 10, "bos_token_id": 1, "eos_token_id": 2}
    model = Siglip2ForImageClassification(Siglip2Config(vision_config=vision, text_config=text))
    with pytest.raises(RltrError, match="images of any shape.*as an iterable"):
        load_task(model, animals, source=str(tmp_path))
