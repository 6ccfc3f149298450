"""Reading people's own data, and scoring what a model says about it."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from rltr.errors import RltrError
from rltr.evaluate.gallery import text_panels
from rltr.evaluate.points import View
from rltr.tasks import DataOptions, Examples, Task, TensorExamples, load_task
from rltr.tasks.examples import Subset
from rltr.tasks.image_examples import ImageExamples
from rltr.tasks.labels import number_classes
from rltr.tasks.splits import deal
from rltr.tasks.text import TextExamples
from rltr.tasks.tokenizer import longest_text

SMALL: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "poor", "film", "un", "##fine"]


def head(names: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def vit(folder: Path, names: list[str], channels: int = 3) -> PreTrainedModel:
    config = ViTConfig(**SMALL, **head(names), image_size=8, patch_size=4, num_channels=channels)
    ViTForImageClassification(config).save_pretrained(folder)
    statistics: dict[str, Any] = {"image_mean": [0.5] * channels, "image_std": [0.25] * channels}
    ViTImageProcessorPil(size={"height": 8, "width": 8}, **statistics).save_pretrained(folder)
    return ViTForImageClassification.from_pretrained(folder).eval()


def bert(folder: Path, names: list[str], longest: int = 8) -> PreTrainedModel:
    config = BertConfig(**SMALL, **head(names), vocab_size=len(WORDS), max_position_embeddings=longest)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer(folder).save_pretrained(folder)
    return BertForSequenceClassification.from_pretrained(folder).eval()


def tokenizer(folder: Path) -> BertTokenizer:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})


def paint(path: Path, grey: int = 100, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for name, grey in (("cat", 50), ("dog", 200)):
        for i in range(10):
            paint(tmp_path / "data" / name / f"{i}.png", grey + i)
    return tmp_path / "data"


# Images


def test_a_folder_per_class_is_divided(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["Dog", "Cat"])
    task = load_task(model, animals)
    assert task.kind == "image"
    assert [len(split) for split in (task.train, task.validation, task.test)] == [16, 2, 2]
    names = [name for split in (task.train, task.validation, task.test) for name in split.names]
    assert len(set(names)) == 20
    for split in (task.train, task.validation, task.test):
        assert split.classes == ["Dog", "Cat"]
        assert [name.startswith("cat/") for name in split.names] == split.labels.bool().tolist()
        batch = split.batch(range(len(split)))
        greys = (batch["pixel_values"].mean((1, 2, 3)) * 0.25 + 0.5) * 255
        assert torch.equal(greys < 100, split.labels == 1)
        assert model(**batch).logits.shape == (len(split), 2)


def test_the_division_depends_on_its_seed_only(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    first, again, other = (load_task(model, animals, options=DataOptions(seed=seed)).test.names for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_split_folders_are_kept_apart(tmp_path: Path, validation: str) -> None:
    data = tmp_path / "data"
    paint(data / "train" / "cat" / "more" / "1.png")
    paint(data / "train" / "dog" / "2.JPG")
    paint(data / validation / "dog" / "3.webp")
    paint(data / "test" / "cat" / "4.gif", mode="P")
    (data / "train" / "cat" / "notes.txt").write_text("no image")
    task = load_task(vit(tmp_path / "model", ["LABEL_0", "LABEL_1"]), data)
    assert task.train.names == ["train/cat/more/1.png", "train/dog/2.JPG"]
    assert task.train.labels.tolist() == [0, 1] and task.validation.labels.tolist() == [1]
    assert task.test.labels.tolist() == [0] and task.test.classes == ["cat", "dog"]
    assert task.test.batch([0])["pixel_values"].shape == (1, 3, 8, 8)


def test_a_class_may_be_called_like_a_split(tmp_path: Path, animals: Path) -> None:
    for i in range(10):
        paint(animals / "train" / f"{i}.png")
    task = load_task(vit(tmp_path / "model", ["cat", "dog", "train"]), animals)
    assert set(task.test.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_every_image_gets_the_channels_the_model_sees(tmp_path: Path, animals: Path, channels: int, mode: str) -> None:
    paint(animals / "cat" / "0.png", 255, mode)
    task = load_task(vit(tmp_path / "model", ["cat", "dog"], channels), animals)
    split, i = find(task, "cat/0.png")
    values = split.batch([i])["pixel_values"]
    assert values.shape == (1, channels, 8, 8)
    torch.testing.assert_close(values, torch.full_like(values, 2.0))


def test_the_picture_is_what_the_model_sees(tmp_path: Path, animals: Path) -> None:
    left_black = np.zeros((16, 16, 3), np.uint8)
    left_black[:, 8:] = [200, 100, 50]
    Image.fromarray(left_black).save(animals / "cat" / "0.png")
    split, i = find(load_task(vit(tmp_path / "model", ["cat", "dog"]), animals), "cat/0.png")
    picture = split.picture(i)
    assert picture is not None and picture.size == (8, 8)
    assert picture.getpixel((0, 0)) == (0, 0, 0) and picture.getpixel((7, 7)) == (200, 100, 50)
    assert split.words(i) is None


def test_images_are_turned_upright(tmp_path: Path, animals: Path) -> None:
    top_white = np.zeros((8, 8), np.uint8)
    top_white[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    Image.fromarray(top_white).save(animals / "cat" / "0.png", exif=exif)
    split, i = find(load_task(vit(tmp_path / "model", ["cat", "dog"], 1), animals), "cat/0.png")
    picture = split.picture(i)
    assert picture is not None and picture.getpixel((0, 0)) == 0 and picture.getpixel((0, 7)) == 255


def test_the_image_cache_is_bounded_and_changes_nothing(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    expected = whole_of(load_task(model, animals)).batch(range(20))["pixel_values"]
    whole = whole_of(load_task(model, animals))
    assert isinstance(whole, ImageExamples)
    whole._prepared.most_bytes = 3 * 8 * 8 * 3 * 4
    for _ in range(2):
        assert torch.equal(whole.batch(range(20))["pixel_values"], expected)
        assert len(whole._prepared._known) == 3
    (animals / "dog" / "9.png").unlink()
    assert torch.equal(whole.batch([19])["pixel_values"], expected[19:])


def whole_of(task: Task) -> Examples:
    """What a task was divided from."""
    assert isinstance(task.train, Subset)
    return task.train.examples


def find(task: Task, name: str) -> tuple[Examples, int]:
    return next((s, s.names.index(name)) for s in (task.train, task.validation, task.test) if name in s.names)


def damage(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-100])


def no_image(path: Path) -> None:
    path.write_text("hello")


def deep(path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)


@pytest.mark.parametrize(("spoil", "said"), [(damage, "image"), (no_image, "image"), (deep, "8 bits")])
def test_a_bad_image_is_named(tmp_path: Path, animals: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(animals / "dog" / "3.png")
    split, i = find(load_task(vit(tmp_path / "model", ["cat", "dog"]), animals), "dog/3.png")
    with pytest.raises(RltrError, match=rf"dog/3\.png .*{said}"):
        split.batch([i])


def empty_class(data: Path) -> None:
    (data / "bird").mkdir()


def no_classes(data: Path) -> None:
    for path in list(data.rglob("*.png")):
        path.unlink()
    for folder in list(data.iterdir()):
        folder.rmdir()


def too_few(data: Path) -> None:
    for path in list(data.rglob("*.png")):
        if path.stem not in "012":
            path.unlink()


def one_split(data: Path) -> None:
    (data / "cat").rename(data / "one")
    (data / "dog").rename(data / "train")
    for path in list((data / "one").iterdir()):
        path.unlink()
    (data / "one").rmdir()


def other_class(data: Path) -> None:
    (data / "dog").rename(data / "horse")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (empty_class, r"no images in .*bird"),
        (no_classes, r"no subfolders"),
        (too_few, r"only 6 examples, .* none for test"),
        (one_split, r"has train but no test"),
        (other_class, r"2 classes \(cat, horse\) do not fit the model's 2 \(cat, dog\)"),
    ],
)
def test_a_bad_folder_is_refused(tmp_path: Path, animals: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(animals)
    with pytest.raises(RltrError, match=said):
        load_task(vit(tmp_path / "model", ["cat", "dog"]), animals)


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "val", "validation", "test"):
        paint(tmp_path / "data" / split / "cat" / "1.png")
    with pytest.raises(RltrError, match="two validation splits"):
        load_task(vit(tmp_path / "model", ["cat", "dog"]), tmp_path / "data")


def test_images_that_stay_of_different_sizes_are_refused(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    ViTImageProcessorPil(do_resize=False).save_pretrained(tmp_path / "model")
    paint(animals / "dog" / "9.png", size=(9, 8))
    whole = whole_of(load_task(model, animals))
    with pytest.raises(RltrError, match=r"dog/9\.png is prepared to \(3, 8, 9\) but .*cat/1\.png"):
        whole.batch([1, 19])


def test_a_missing_processor_is_said_in_one_line(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(RltrError, match="image processor could not be loaded .* preprocessor_config.json") as error:
        load_task(model, animals)
    assert "\n" not in str(error.value)


def test_an_unknown_source_is_said_in_one_line(tmp_path: Path, animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RltrError, match="'nobody/nothing'.*HF_HUB_OFFLINE") as error:
        load_task(vit(tmp_path / "model", ["cat", "dog"]), animals, source="nobody/nothing")
    assert "\n" not in str(error.value)


# Texts

REVIEWS = [("a fine film", "good"), ("a poor film", "bad")] * 10


def write(path: Path, rows: list[tuple[str, str]] | list[dict], header: str = "text,label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [header.replace(",", separator), *(separator.join(row) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


def test_a_csv_is_read_and_divided(tmp_path: Path) -> None:
    model = bert(tmp_path / "model", ["BAD", "GOOD"])
    data = write(tmp_path / "reviews.csv", [*REVIEWS, ('"fine, ""fine"" film"', "good")])
    task = load_task(model, data)
    assert task.kind == "text" and task.train.classes == ["BAD", "GOOD"]
    splits = (task.train, task.validation, task.test)
    assert sum(len(split) for split in splits) == 21
    for split in splits:
        assert [name == "a poor film" for name in split.names] == (split.labels == 0).tolist()
        assert model(**split.batch(range(len(split)))).logits.shape == (len(split), 2)
    split, i = find(task, 'fine, "fine" film')
    assert split.words(i) == ["[CLS]", "fine", "[UNK]", "[UNK]", "fine", "[UNK]", "film", "[SEP]"]
    assert split.picture(i) is None


def test_pieces_of_words_are_told_from_words_in_byte_level_bpe() -> None:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet()), "un", "Ġun", "be"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    merges: Any = [("u", "n"), ("Ġ", "un"), ("b", "e")]
    own = RobertaTokenizer(vocab=vocab, merges=merges)
    texts = ["unbe unbe", "unbe", "be, un"]
    examples = TextExamples(texts, torch.zeros(3, dtype=torch.long), ["a"], own, None)
    assert examples.words(0) == ["<s>", "un", "##be", "un", "##be", "</s>"]
    assert examples.words(1) == ["<s>", "un", "##be", "</s>"]
    assert examples.words(2) == ["<s>", "be", "##,", "un", "</s>"]
    view = View("policy", "merge", 0.2, None, 0.0, [], ["1" * 6])
    (shown,) = text_panels(examples.words(0), view)
    assert re.sub("<[^>]*>", "", shown) == "&lt;s&gt; unbe unbe &lt;/s&gt;"


def test_rows_are_padded_to_the_longest_and_cut_to_what_the_model_takes(tmp_path: Path) -> None:
    data = write(tmp_path / "data.csv", [("fine", "0"), ("a fine film", "1"), ("film " * 50, "1")] * 9)
    whole = whole_of(load_task(bert(tmp_path / "model", ["no", "yes"], longest=8), data))
    batch = whole.batch([0, 1])
    assert batch["input_ids"].shape == (2, 5)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert whole.batch([0])["input_ids"].shape == (1, 3)
    assert whole.batch([2])["input_ids"].shape == (1, 8)
    assert whole.words(2) == ["[CLS]", *["film"] * 6, "[SEP]"]
    assert whole.longest() == 2 and whole.subset([3, 0, 4, 1]).longest() in (2, 3)
    assert whole.subset([3, 0, 5, 1]).longest() == 2 and whole.subset([0]).lengths() == [3]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_folder_of_splits_with_columns_of_other_names(tmp_path: Path, suffix: str) -> None:
    splits = {"train": REVIEWS, "val": REVIEWS[:3], "test": REVIEWS[:2]}
    for split, rows in splits.items():
        records = [{"review": text, "stars": int(label == "good")} for text, label in rows]
        lines = [(text, str(int(label == "good"))) for text, label in rows]
        write(tmp_path / "data" / f"{split}{suffix}", records if suffix == ".jsonl" else lines, "review,stars")
    options = DataOptions(text_column="review", label_column="stars")
    task = load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / "data", options=options)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [20, 3, 2]
    assert task.test.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,label\na film,good\n ,bad\n", r"line 3: 'text' is empty"),
        ("x.csv", "text,label\na film,\n", r"line 2: 'label' is empty"),
        ("x.csv", "sentence,label\na film,good\n", r"no column 'text'; there are 'sentence', 'label'"),
        ("x.csv", "text,label\na film,good,3\n", r"line 2: not as many fields"),
        ("x.csv", "text,label\na film\n", r"line 2: not as many fields"),
        ("x.csv", "text,label\n", r"has no records"),
        ("x.csv", "", r"has no records"),
        ("x.csv", 'text,label\n"a film"s,good\n', r"line 2: .*damaged"),
        ("x.csv", "text,label\na film,good\na film,dull\n", r"2 classes \(dull, good\) do not fit the model's 2"),
        ("x.jsonl", '{"text": "a", "label": "good"}\n{"text": "a"\n', r"line 2: no JSON"),
        ("x.jsonl", "[1]\n", r"line 1: every line must be a JSON object"),
        ("x.jsonl", '{"text": "a", "label": 0.5}\n', r"classes \(0\.5\) do not fit the model's 2"),
        ("x.jsonl", '{"text": "a", "label": []}\n', r"1 classes \(\) do not fit the model's 2"),
        ("x.jsonl", '{"text": null, "label": 0}\n', r"'text' must be a string or a number, not null"),
        ("x.txt", "", r"reads \.csv, \.tsv, \.jsonl"),
    ],
)
def test_a_bad_text_file_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RltrError, match=said):
        load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / name)


def test_a_long_text_is_no_damage(tmp_path: Path) -> None:
    csv.field_size_limit(131_072)  # as Python starts with
    data = write(tmp_path / "x.csv", [*REVIEWS, ("film " * 40_000, "good")])
    whole = whole_of(load_task(bert(tmp_path / "model", ["bad", "good"]), data))
    assert len(whole) == 21 and whole.batch([20])["input_ids"].shape == (1, 8)


def test_a_text_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("text,label\ncafé,good\n".encode("latin-1"))
    with pytest.raises(RltrError, match="not UTF-8"):
        load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / "x.csv")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", REVIEWS, "\ufefftext,label")
    assert len(load_task(bert(tmp_path / "model", ["bad", "good"]), tmp_path / "x.csv").train) == 16


def test_a_missing_tokenizer_or_padding_token_is_said(tmp_path: Path) -> None:
    data = write(tmp_path / "x.csv", REVIEWS)
    model = bert(tmp_path / "model", ["bad", "good"])
    without = tokenizer(tmp_path)
    without.pad_token = None
    without.save_pretrained(tmp_path / "model")
    with pytest.raises(RltrError, match="no padding token"):
        load_task(model, data)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(RltrError, match=r"tokenizer could not be loaded .*tokenizer\.json") as error:
        load_task(model, data)
    assert "\n" not in str(error.value)
    for path in [*(tmp_path / "model").glob("*token*"), tmp_path / "model" / "vocab.txt"]:
        path.unlink()
    with pytest.raises(RltrError, match="knows no words"):
        load_task(model, data)
    BertTokenizer(vocab={str(i): i for i in range(20)} | {"[UNK]": 20}).save_pretrained(tmp_path / "model")
    with pytest.raises(RltrError, match="tokens but the model only 11"):
        load_task(model, data)


def test_positions_that_start_after_the_padding_index_are_not_promised_twice(tmp_path: Path) -> None:
    config = RobertaConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=10, pad_token_id=1)
    model = RobertaForSequenceClassification(config)
    longest = longest_text(model, tokenizer(tmp_path))
    assert longest == 8
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))


# Inputs that cannot be used


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
    with pytest.raises(RltrError, match=r"answer to '.*png' is NaN or infinite"):
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
        with pytest.raises(RltrError, match=r"names no padding token.* set model\.config\.pad_token_id"):
            load_task(model, form)
    model.config.pad_token_id = 0
    assert len(load_task(model, data).train) == 16


def test_that_texts_are_cut_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = bert(tmp_path / "model", ["no", "yes"], longest=8)
    fits = write(tmp_path / "fits.csv", [("film " * 6, "0"), ("fine", "1")] * 9)
    task = load_task(model, fits)
    task.train.batch(range(len(task.train)))
    assert not caplog.records
    task = load_task(model, write(tmp_path / "data.csv", [("fine", "0"), ("film " * 50, "1")] * 9))
    for split in (task.train, task.test, task.train):
        assert split.batch(range(len(split)))["input_ids"].shape[1] == 8
        assert max(split.lengths() or []) == 8
    said = "texts are cut to 8 tokens; one has 52"
    assert [record.getMessage() for record in caplog.records] == [said]


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


def test_fingerprints_follow_what_the_model_sees(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    before, again = (whole_of(load_task(model, animals)).fingerprint() for _ in range(2))
    assert before == again
    paint(animals / "cat" / "0.png", 51, size=(9, 9))
    changed = whole_of(load_task(model, animals)).fingerprint()
    ViTImageProcessorPil(size={"height": 8, "width": 8}, do_normalize=False).save_pretrained(tmp_path / "model")
    other = whole_of(load_task(model, animals)).fingerprint()
    assert len({before, changed, other}) == 3
    first = load_task(model, animals).train.fingerprint()
    assert first != load_task(model, animals, options=DataOptions(seed=1)).train.fingerprint()
    text = bert(tmp_path / "bert", ["bad", "good"])
    data = write(tmp_path / "x.csv", REVIEWS)
    before, again = (whole_of(load_task(text, data)).fingerprint() for _ in range(2))
    write(tmp_path / "x.csv", [*REVIEWS[1:], ("a fine", "good")])
    assert before == again != whole_of(load_task(text, data)).fingerprint()


def test_what_was_asked_before_changes_no_fingerprint(tmp_path: Path) -> None:
    """A fast tokenizer keeps how it padded and cut the last time."""
    model, data = bert(tmp_path / "model", ["bad", "good"]), write(tmp_path / "x.csv", [*REVIEWS, ("film " * 9, "bad")])
    whole = whole_of(load_task(model, data))
    asked: list[Callable[[], Any]] = [lambda: whole.batch([0]), whole.lengths, lambda: whole.words(0)]
    prints = {whole.fingerprint()}
    for ask in asked:
        ask()
        prints.add(whole.fingerprint())
    assert len(prints) == 1


# Kinds and sources


def test_data_and_model_must_be_of_one_kind(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    with pytest.raises(RltrError, match="pixel_values, which is for image or zero-shot or embedding tasks, not text"):
        load_task(model, animals, kind="text")
    with pytest.raises(RltrError, match="no task kind 'sound'; choose one of image, text"):
        load_task(model, animals, kind="sound")
    with pytest.raises(RltrError, match="not a folder"):
        load_task(model, write(tmp_path / "x.csv", REVIEWS))
    with pytest.raises(RltrError, match="no train, validation and test file"):
        load_task(bert(tmp_path / "bert", ["cat", "dog"]), animals)
    with pytest.raises(RltrError, match="no data at .*nowhere"):
        load_task(model, tmp_path / "nowhere")
    nameless = ViTForImageClassification(ViTConfig(**SMALL, image_size=8, patch_size=4))
    with pytest.raises(RltrError, match="give its folder as source"):
        load_task(nameless, animals)
    assert len(load_task(nameless, animals, source=model.name_or_path).train) == 16


def test_options_are_checked() -> None:
    for fractions in ((0.5, 0.5, 0.0), (0.5, 0.4, 0.2), (0.5, 0.6, -0.1)):
        with pytest.raises(RltrError, match="sum to 1"):
            DataOptions(fractions=fractions)
    with pytest.raises(RltrError, match="0 or more"):
        DataOptions(seed=-1)


# Labels


@pytest.mark.parametrize(
    ("names", "own", "numbers"),
    [
        (["dog", "cat"], ["cat", "dog"], {"dog": 1, "cat": 0}),
        (["DOG"], ["cat", "dog"], {"DOG": 1}),
        (["t_shirt_top"], ["T-shirt/top", "Trouser"], {"t_shirt_top": 0}),
        (["+", "-"], ["-", "+"], {"+": 1, "-": 0}),
        (["a", "A"], ["A", "a"], {"a": 1, "A": 0}),
        (["1", "0"], ["cat", "dog"], {"0": 0, "1": 1}),
        (["1", "0"], ["1", "0"], {"0": 1, "1": 0}),
        (["dog", "cat"], ["LABEL_0", "LABEL_1"], {"cat": 0, "dog": 1}),
        (["1", "2"], ["LABEL_0", "LABEL_1"], {"1": 0, "2": 1}),
        ([str(i) for i in range(1, 12)], [f"LABEL_{i}" for i in range(11)], {str(i + 1): i for i in range(11)}),
    ],
)
def test_class_names_become_the_heads_numbers(names: list[str], own: list[str], numbers: dict[str, int]) -> None:
    assert number_classes(names, ViTConfig(**head(own)))[0] == numbers


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (["cat", "horse"], ["cat", "dog"]),
        (["cat", "dog", "horse"], ["LABEL_0", "LABEL_1"]),
        (["cat"], ["LABEL_0", "LABEL_1"]),
        (["1", "2"], ["cat", "dog"]),
        (["cat", "Cat"], ["cat", "dog"]),
    ],
)
def test_class_names_that_do_not_fit_are_both_listed(names: list[str], own: list[str]) -> None:
    with pytest.raises(RltrError, match=rf"\({', '.join(sorted(names))}\) do not fit .*\({', '.join(own)}\)"):
        number_classes(names, ViTConfig(**head(own)))


def test_heads_that_no_score_fits_are_refused() -> None:
    with pytest.raises(RltrError, match="single-label"):
        number_classes(["0"], ViTConfig(**head(["LABEL_0"])))
    with pytest.raises(RltrError, match="single-label"):
        number_classes(["0"], ViTConfig(**head(["a", "b"]), problem_type="multi_label_classification"))


# Examples


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 5))
def test_every_example_is_dealt_out_once(labels: list[int], seed: int) -> None:
    parts = deal(torch.tensor(labels), (0.5, 0.25, 0.25), seed)
    assert sorted(i for part in parts for i in part) == list(range(len(labels)))
    for label in set(labels):
        for part, fraction in zip(parts, (0.5, 0.25, 0.25), strict=True):
            assert abs(sum(labels[i] == label for i in part) - fraction * labels.count(label)) <= 1


def numbers(count: int = 6) -> TensorExamples:
    rows = torch.arange(count)
    return TensorExamples(rows % 2, [f"n{i}" for i in range(count)], ["even", "odd"], {"x": rows[:, None] * 10})


def test_a_subset_of_a_subset_reads_the_right_rows() -> None:
    part = numbers().subset([5, 0, 3]).subset([2, 0])
    assert part.batch([0, 1, 1])["x"].flatten().tolist() == [30, 50, 50]
    assert part.names == ["n3", "n5"] and part.labels.tolist() == [1, 1] and len(part) == 2


def test_a_limit_takes_at_most_so_many() -> None:
    whole = numbers(100)
    some = whole.at_most(30, seed=1)
    order = some.batch(range(30))["x"].flatten().tolist()
    assert len(set(order)) == 30 and order == sorted(order) and order != [10 * i for i in range(30)]
    assert whole.at_most(30, seed=1).names == some.names != whole.at_most(30, seed=2).names
    assert whole.at_most(None) is whole and whole.at_most(100) is whole
    with pytest.raises(RltrError, match="not 0"):
        whole.at_most(0)
    task = Task(whole, whole, whole, "image").at_most(1, None, 3)
    assert [len(task.train), len(task.validation), len(task.test)] == [1, 100, 3]


def test_tensors_must_be_equally_many() -> None:
    with pytest.raises(RltrError, match="equally many"):
        TensorExamples(torch.zeros(2, dtype=torch.long), ["a"], ["x"], {"x": torch.zeros(2)})
    with pytest.raises(RltrError, match="at least one"):
        TensorExamples(torch.zeros(0, dtype=torch.long), [], ["x"], {"x": torch.zeros(0)})
