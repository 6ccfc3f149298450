"""Tasks beyond one class per image or text, from people's files to a trained, measured and attached policy."""

import csv
import io
import json
from pathlib import Path
from typing import Any, get_args

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    LlamaConfig,
    LlamaForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

import rltr
from rltr.backbone import Backbone
from rltr.checking import run_check
from rltr.envs import DenseCache, DenseLogits, make_episodes
from rltr.errors import RltrError
from rltr.evaluate.results import read_json
from rltr.folders import POLICY_FOLDER
from rltr.jobs import run_evaluate, run_train
from rltr.loading import load_model
from rltr.parity import parity, random_examples
from rltr.recipe import Recipe, load_recipe
from rltr.recipe.fields import DataGroup
from rltr.reduction import Reduction
from rltr.selectors import KeepAll
from rltr.selectors.random import RandomChoice
from rltr.tasks import KINDS, DataOptions, TensorExamples, load_task
from rltr.tasks.examples import Subset
from rltr.tasks.goals import Classification, Embedding, MultiLabel, Regression, TokenClassification, ZeroShot
from rltr.tasks.goals.embedding import mean_of_kept
from rltr.tasks.goals.token_classes import UNLABELLED
from rltr.tasks.heads import measure_spread
from rltr.tasks.text import TextExamples
from rltr.tasks.tokens import TokenExamples
from rltr.tasks.zero_shot import embed_texts, text_tower, vision_tower

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")

SIZE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ann", "lives", "in", "old", "rome", "bob", "likes", "red", "tea"]


def tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    own = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    own.pre_tokenizer = Whitespace()
    own.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=own, model_max_length=16, **special, **options)


def save(model: PreTrainedModel, folder: Path) -> str:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    if model.main_input_name == "pixel_values" or hasattr(model, "vision_model"):
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    if model.main_input_name == "input_ids":
        tokenizer().save_pretrained(folder)
    return str(folder)


def bert(**head: Any) -> BertConfig:
    return BertConfig(**SIZE, vocab_size=len(WORDS), max_position_embeddings=16, **head)


VISION = {**SIZE, "image_size": 16, "patch_size": 4}
TEXT = {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 16}
IDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def clip() -> CLIPModel:
    towers = {"text_config": {**TEXT, **IDS, "projection_dim": 8}, "vision_config": {**VISION, "projection_dim": 8}}
    return CLIPModel(CLIPConfig(**towers, projection_dim=8))


def siglip() -> SiglipModel:
    return SiglipModel(SiglipConfig(text_config={**TEXT, **IDS, "projection_size": 16}, vision_config=VISION))


def llama(**head: Any) -> LlamaConfig:
    return LlamaConfig(**TEXT, num_key_value_heads=1, bos_token_id=2, eos_token_id=3, pad_token_id=0, **head)


TAGS = {"id2label": {0: "O", 1: "NAME", 2: "PLACE"}, "label2id": {"O": 0, "NAME": 1, "PLACE": 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved models and data of every kind."""
    folder = tmp_path_factory.mktemp("heads")
    save(BertForTokenClassification(bert(**TAGS)), folder / "tagger")
    save(LlamaForTokenClassification(llama(**TAGS)), folder / "decoder")
    left = tokenizer(padding_side="left", model_input_names=["input_ids", "attention_mask"])
    left.save_pretrained(folder / "decoder")
    save(BertForSequenceClassification(bert(num_labels=1)), folder / "rater")
    topics = {"id2label": {0: "food", 1: "travel"}, "label2id": {"food": 0, "travel": 1}}
    save(BertForSequenceClassification(bert(**topics, problem_type="multi_label_classification")), folder / "topics")
    save(BertModel(bert()), folder / "embedder")
    vit = ViTConfig(**SIZE, image_size=16, patch_size=4, num_labels=1)
    save(ViTForImageClassification(vit), folder / "guesser")
    save(ViTModel(vit), folder / "seer")
    save(clip(), folder / "clip")
    save(siglip(), folder / "siglip")

    sentences: list[tuple[list[str], list[Any]]] = [
        (["ann", "lives", "in", "old", "rome"], ["NAME", "O", "O", "O", "PLACE"])
    ]
    sentences += [(["bob", "likes", "red-ish", "tea"], ["NAME", "O", -100, "O"]), (["tea"], ["O"])]
    tagged = [{"tokens": words, "tags": labels} for words, labels in sentences * 10]
    (folder / "tagged.jsonl").write_text("\n".join(map(json.dumps, tagged)))
    texts = [" ".join(words) for words, _ in sentences]
    rows = [(text, i / 7, ["food", "food|travel", ""][i % 3]) for i, text in enumerate(texts * 10)]
    with (folder / "rated.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "stars", "topic"), *rows])
    (folder / "topics.jsonl").write_text(
        "\n".join(
            json.dumps({"text": text, "label": [["food"], ["food", "travel"]][i % 2]})
            for i, (text, *_) in enumerate(rows)
        )
    )
    (folder / "plain.txt").write_text("\n".join(texts * 10) + "\n\n")
    generator = torch.Generator().manual_seed(0)
    for i in range(20):
        pixels = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8).numpy()
        for place in (folder / "aged" / f"{i % 4 + 0.5}", folder / "drinks" / ["red_tea", "old_tea"][i % 2]):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


CASES: dict[str, tuple[str, str, dict[str, Any], type, str]] = {
    "tokens": (
        "tagger",
        "tagged.jsonl",
        {"text_column": "tokens", "label_column": "tags"},
        TokenClassification,
        "token accuracy",
    ),
    "tokens of a decoder": (
        "decoder",
        "tagged.jsonl",
        {"text_column": "tokens", "label_column": "tags"},
        TokenClassification,
        "token accuracy",
    ),
    "numbers": ("rater", "rated.csv", {"label_column": "stars"}, Regression, "D²"),
    "several labels": ("topics", "topics.jsonl", {}, MultiLabel, "label accuracy"),
    "embeddings": ("embedder", "plain.txt", {"kind": "embedding"}, Embedding, "cosine"),
    "numbers of images": ("guesser", "aged", {}, Regression, "D²"),
    "zero-shot": ("clip", "drinks", {"template": "ann likes {}"}, ZeroShot, "accuracy"),
    "zero-shot by SigLIP": ("siglip", "drinks", {}, ZeroShot, "accuracy"),
    "image embeddings": ("seer", "aged", {"kind": "embedding", "pooling": "cls"}, Embedding, "cosine"),
}
WHOLE_WAY = ["tokens", "numbers", "embeddings", "zero-shot"]
"""A few of them, because figures take their time."""


def recipe(folder: Path, out: Path, case: str) -> Recipe:
    model, data, options, _, _ = CASES[case]
    values = {
        "model": {"source": str(folder / model)},
        "data": {"source": str(folder / data), "fractions": [0.5, 0.25, 0.25], **options},
        "cost": {"kind": "flops"},
        "learner": {"rollouts": 16, "batch": 8, "group_size": 2},
        "evaluation": {"cost_weights": [0.01, 4.0], "keep_rates": [0.5], "methods": ["random"], "batch_size": 16},
        "device": "cpu",
        "out": str(out),
    }
    return load_recipe(values)


@pytest.mark.parametrize("case", WHOLE_WAY)
def test_from_files_to_a_report_that_names_its_quality(
    folder: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, goal, name = CASES[case]
    column = name.replace(" ", "_")
    wanted = recipe(folder, tmp_path / "run", case)
    run = run_train(wanted)
    progress = next((run / "logs").rglob("progress.csv")).read_text().splitlines()[0]
    assert f"rltr/{column}" in progress and f"rltr/dense_{column}" in progress

    run_evaluate(run / POLICY_FOLDER, wanted.model_copy(update={"out": tmp_path / "measured"}))
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

    capsys.readouterr()
    assert run_check(run / POLICY_FOLDER)
    assert f", {name} " in capsys.readouterr().out
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
    torch.testing.assert_close(episodes.outcome.score, torch.zeros(4), atol=1e-5, rtol=0)
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
    run = run_train(load_recipe({**values, "model": {"source": model, "tower": "vision_model"}}))
    assert run_check(run / POLICY_FOLDER)
    whole, images = load_model(model), torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        native = whole(pixel_values=images).logits
        with rltr.attach(whole, run / POLICY_FOLDER, cost_weight=8.0) as attached:
            reduced = whole(pixel_values=images).logits
        assert attached.kept is not None and attached.kept.total < 4 * 17 and not torch.equal(reduced, native)
        assert torch.equal(whole(pixel_values=images).logits, native)


# Words


def test_only_the_first_token_of_a_word_has_its_class(folder: Path) -> None:
    model = load_model(str(folder / "tagger"))
    options = DataOptions((0.5, 0.25, 0.25), text_column="tokens", label_column="tags")
    examples = load_task(model, folder / "tagged.jsonl", options=options).train
    by_name = {name: i for i, name in enumerate(examples.names)}
    row = by_name["bob likes red-ish tea"]
    assert examples.words(row) == ["[CLS]", "bob", "likes", "red", "##[UNK]", "##[UNK]", "tea", "[SEP]"]
    no = UNLABELLED
    assert examples.labels[row].tolist() == [no, 1, 0, no, no, no, 0, no]
    lengths = examples.lengths()
    assert lengths is not None and lengths[row] == 8
    batch = examples.batch([row, by_name["tea"]])
    assert batch["input_ids"].shape == (2, 8) and batch["attention_mask"].sum(1).tolist() == [8, 3]
    assert examples.labels.shape[1] == 8


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,label\n", "no .jsonl"),
        ("x.jsonl", "", "no records"),
        ("x.jsonl", '{"words": ["a"], "label": [0]}', "no 'text'; there are 'words', 'label'.*data.text_column"),
        ("x.jsonl", '{"text": "ann", "label": [0]}', "list of strings"),
        ("x.jsonl", '{"text": ["ann"], "label": [0.5]}', "list of strings or whole numbers"),
        ("x.jsonl", '{"text": ["ann", "lives"], "label": [0]}', "2 words but 1 labels"),
        ("x.jsonl", '{"text": ["ann"], "label": ["ANIMAL"]}', r"\(ANIMAL\) do not fit"),
        (
            "x.jsonl",
            '{"text": ["ann"], "label": [-100]}\n' + '{"text": ["ann"], "label": ["O"]}',
            "line 1: no labelled word",
        ),
        (
            "x.jsonl",
            json.dumps({"text": ["ann"] * 20, "label": [-100] * 15 + ["O"] * 5}),
            "line 1: no labelled word is left.* 16",
        ),
    ],
)
def test_words_without_proper_classes(folder: Path, tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RltrError, match=said):
        load_task(load_model(str(folder / "tagger")), tmp_path / name)


def test_a_tokenizer_that_pads_at_the_start_moves_no_label(folder: Path, tmp_path: Path) -> None:
    """As most decoders' tokenizers do; cached answers are of rows that went alone, without any padding."""
    backbone = Backbone(load_model(str(folder / "decoder")))
    options = DataOptions((0.5, 0.25, 0.25), text_column="tokens", label_column="tags")
    examples = load_task(backbone.model, folder / "tagged.jsonl", options=options).train
    assert isinstance(examples, Subset) and isinstance(examples.examples, TokenExamples)
    assert examples.examples.tokenizer.padding_side == "left"
    batch, lengths = examples.batch(range(len(examples))), examples.lengths()
    assert lengths is not None and len(set(lengths)) > 1
    assert torch.equal(batch["attention_mask"] > 0, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
    alone = DenseLogits(backbone, examples, cache=DenseCache(2**20, tmp_path))(torch.arange(len(examples)))
    with torch.no_grad():
        together = examples.goal.read(backbone.model(**batch), batch)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    examples.goal.check(alone, together, examples.labels)


def test_dropped_words_keep_the_class_of_their_last_state(folder: Path) -> None:
    model: Any = load_model(str(folder / "tagger"))
    backbone = Backbone(model)
    inputs = random_examples(backbone, 4, 9).batch(range(4))
    goal = TokenClassification(9)
    with backbone.attached(), torch.no_grad():
        output, trace = Reduction(backbone, RandomChoice(0.5), [0], "drop")(inputs)
        embedded = model.bert.embeddings(inputs["input_ids"])
        logits = model.classifier(embedded)
    gone = trace.present[0] & ~trace.present[1]
    assert bool(gone.any())
    torch.testing.assert_close(goal.read(output, inputs, trace)[gone], logits[gone])


# Numbers and several labels


def test_numbers_are_read_and_their_spread_is_the_models(folder: Path) -> None:
    model = load_model(str(folder / "rater"))
    task = load_task(model, folder / "rated.csv", options=DataOptions((0.5, 0.25, 0.25), label_column="stars"))
    everything = torch.cat([part.labels for part in (task.train, task.validation, task.test)])
    assert sorted(everything[:, 0].tolist()) == pytest.approx([i / 7 for i in range(30)])
    goal = task.train.goal
    assert isinstance(goal, Regression)
    assert goal.deviation == pytest.approx(float((everything - everything.median()).abs().mean()))
    with torch.no_grad():
        answers = model(**task.train.batch(range(len(task.train)))).logits
    assert goal.spread == pytest.approx(float(answers.std(correction=0)), rel=1e-3)


def test_the_spread_of_a_model_in_half_precision() -> None:
    """Which takes no inputs in another, unlike ViT."""
    model = BeitForImageClassification(BeitConfig(**VISION, num_labels=1, initializer_range=0.5)).eval()
    names, pixels = [str(i) for i in range(40)], torch.randn(40, 3, 16, 16)
    examples = TensorExamples(torch.zeros(40, 1), names, [], {"pixel_values": pixels}, goal=Regression())
    found = [measure_spread(model.to(dtype), examples) for dtype in (torch.float32, torch.bfloat16)]
    assert isinstance(found[0], Regression) and isinstance(found[1], Regression)
    assert found[1].spread == pytest.approx(found[0].spread, rel=0.1)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1.0", "many"], "'many' is not a number"),
        (["1.0", "nan"], "'nan' is not a number"),
        (["1.0", "2|3"], "'2|3' is not a number"),
        (["1.0", "1.0"], "nothing to predict"),
    ],
)
def test_labels_that_are_no_numbers(folder: Path, tmp_path: Path, labels: list[str], said: str) -> None:
    (tmp_path / "x.csv").write_text("text,label\n" + "".join(f"tea,{label}\n" for label in labels * 5))
    with pytest.raises(RltrError, match=said.replace("|", r"\|")):
        load_task(load_model(str(folder / "rater")), tmp_path / "x.csv")


def test_a_model_that_always_says_the_same_is_noticed(folder: Path, tmp_path: Path) -> None:
    model: Any = load_model(str(folder / "rater"))
    torch.nn.init.zeros_(model.classifier.weight)
    with pytest.raises(RltrError, match="same number to"):
        load_task(model, folder / "rated.csv", options=DataOptions(label_column="stars"))


def test_several_labels_are_marks(folder: Path) -> None:
    task = load_task(load_model(str(folder / "topics")), folder / "topics.jsonl")
    assert task.train.classes == ["food", "travel"]
    assert {tuple(marks) for marks in task.train.labels.tolist()} == {(1.0, 0.0), (1.0, 1.0)}


def test_no_class_at_all_is_an_empty_list(folder: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": "tea", "label": [["food", "travel"], []][i % 2]}) for i in range(20)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    task = load_task(load_model(str(folder / "topics")), tmp_path / "x.jsonl")
    assert {tuple(marks) for marks in task.train.labels.tolist()} == {(0.0, 0.0), (1.0, 1.0)}


def test_a_model_without_the_head_is_noticed(folder: Path) -> None:
    with pytest.raises(RltrError, match="BertModel gives no 'logits'"):
        load_task(load_model(str(folder / "embedder"), "embedding"), folder / "topics.jsonl", kind="text")


# Tables and arrays


def table(features: dict[str, Any], records: list[tuple[Any, ...]]) -> datasets.Dataset:
    columns = dict(zip(features, map(list, zip(*records, strict=True)), strict=True))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


STRING, IMAGE = datasets.Value("string"), datasets.Image()
TABLES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "numbers": ("rater", {"label_column": "stars"}, {}),
    "several labels": ("topics", {}, {}),
    "several labels by number": ("topics", {"label_column": "codes"}, {}),
    "embeddings": ("embedder", {}, {"kind": "embedding"}),
    "zero-shot": ("clip", {"label_column": "drink", "template": "ann likes {}"}, {}),
    "image embeddings": ("seer", {}, {"kind": "embedding"}),
    "numbers of images": ("guesser", {"label_column": "stars"}, {}),
    "tokens": ("tagger", {"text_column": "words", "label_column": "tags"}, {}),
    "tokens by number": ("tagger", {"text_column": "words", "label_column": "numbers"}, {}),
}


def records() -> datasets.Dataset:
    """Twenty records with columns for every kind."""
    features = {
        "text": STRING,
        "image": IMAGE,
        "stars": datasets.Value("float32"),
        "label": datasets.List(datasets.ClassLabel(names=["Travel", "Food"])),
        "codes": datasets.List(datasets.Value("int64")),
        "drink": datasets.ClassLabel(names=["red_tea", "old_tea"]),
        "words": datasets.List(STRING),
        "tags": datasets.List(datasets.ClassLabel(names=["PLACE", "NAME", "O"])),
        "numbers": datasets.List(datasets.Value("int64")),
    }
    rows = []
    for i in range(20):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (10 * i, 100, 255 - 10 * i)).save(stream, "PNG")
        image = {"bytes": stream.getvalue(), "path": None}
        text, labels = ["ann likes tea", "bob lives in rome"][i % 2], [[0, 1], []][i % 2]
        words = text.split()
        tags = [1] + [2] * (len(words) - 1)
        numbers = [1] + [0] * (len(words) - 2) + [-100]
        rows.append((text, image, i / 7, labels, labels, i % 2, words, tags, numbers))
    return table(features, rows)


@pytest.mark.parametrize("case", TABLES)
def test_tables_are_read_for_every_goal(folder: Path, case: str) -> None:
    name, own, kind = TABLES[case]
    model = load_model(str(folder / name), **kind)
    task = load_task(model, records(), options=DataOptions((0.5, 0.25, 0.25), **own), **kind)
    train = task.train
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 20
    assert train.goal == task.test.goal and train.fingerprint() is not None
    with torch.no_grad():
        inputs = train.batch(range(len(train)))
        answers = train.goal.read(model(**inputs), inputs)
    assert answers.shape == (len(train), *train.goal.shape(train.labels, train.classes))
    train.goal.check(answers, answers, train.labels)
    if case.startswith("several"):
        assert {tuple(marks) for marks in train.labels.tolist()} == {(1.0, 1.0), (0.0, 0.0)}
    elif case.startswith("tokens"):
        last = UNLABELLED if case.endswith("number") else 0
        wanted = {(4, 1, 0, last), (5, 1, 0, 0, last)}
        found = train.labels.tolist()
        assert {
            (len(words.split()) + 1, *row[1 : len(words.split()) + 1])
            for words, row in zip(train.names, found, strict=True)
        } == wanted
    elif case == "zero-shot":
        assert train.classes == ["old tea", "red tea"]


def test_arrays_are_read_for_every_head_with_a_label(folder: Path) -> None:
    ids = np.array([[2, 4 + i % 9, 5, 3] for i in range(20)])
    stars = np.arange(20, dtype=np.float32) / 7
    marks = np.stack([np.arange(20) % 2, np.arange(20) % 3 > 0], 1).astype(np.float32)
    for labels in (stars, stars[:, None]):
        task = load_task(load_model(str(folder / "rater")), {"input_ids": ids, "labels": labels})
        assert isinstance(task.train.goal, Regression) and task.train.labels.shape == (16, 1)
        every = torch.cat([split.labels for split in (task.train, task.validation, task.test)])
        assert sorted(every[:, 0].tolist()) == stars.tolist()
    topics = load_model(str(folder / "topics"))
    for data in ({"input_ids": ids, "labels": marks}, [{"input_ids": ids, "labels": torch.from_numpy(marks)}]):
        task = load_task(topics, data)
        assert isinstance(task.train.goal, MultiLabel)
        every = torch.cat([split.labels for split in (task.train, task.validation, task.test)])
        assert sorted(every.tolist()) == sorted(marks.tolist())
    with pytest.raises(RltrError, match="0 or 1 for each of the 2 classes"):
        load_task(topics, {"input_ids": ids, "labels": 2 * marks})
    with pytest.raises(RltrError, match=r"is not a number"):
        load_task(load_model(str(folder / "rater")), {"input_ids": ids, "labels": marks})
    with pytest.raises(RltrError, match="tokens tasks do not read arrays .*; these do: image, text, audio"):
        load_task(load_model(str(folder / "tagger")), {"input_ids": ids, "labels": ids})


def test_sentences_without_a_label_are_left_out_if_asked(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [{"text": ["ann", "lives"], "label": [["NAME", -100], [-100, -100]][i == 7]} for i in range(20)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = load_model(str(folder / "tagger"))
    with pytest.raises(RltrError, match=r"line 8: no labelled word is left.*data\.bad_inputs=skip"):
        load_task(model, tmp_path / "x.jsonl")
    task = load_task(model, tmp_path / "x.jsonl", options=DataOptions(bad_inputs="skip"))
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 19
    assert "line 8: no labelled word" in caplog.text


# Embeddings


def test_an_embedding_has_to_be_asked_for(folder: Path) -> None:
    with pytest.raises(RltrError, match="data.kind=embedding"):
        load_model(str(folder / "embedder"))
    with pytest.raises(RltrError, match="name the kind of task, embedding"):
        load_task(BertModel.from_pretrained(folder / "embedder"), folder / "plain.txt")
    with pytest.raises(RltrError, match="takes tokens inputs, but the data is of kind 'text'"):
        load_model(str(folder / "tagger"), "text")
    assert type(load_model(str(folder / "tagger"), "embedding")) is BertModel


def test_a_pooler_that_nobody_trained_is_left_out(folder: Path, tmp_path: Path) -> None:
    BertModel(bert(), add_pooling_layer=False).save_pretrained(tmp_path)
    prints = {Backbone(load_model(str(tmp_path), "embedding")).fingerprint for _ in "ab"}
    assert len(prints) == 1


@pytest.mark.parametrize("dropped", ["merge", "drop"])
def test_who_attaches_pools_as_it_was_trained(folder: Path, tmp_path: Path, dropped: str) -> None:
    wanted = recipe(folder, tmp_path / "run", "embeddings").model_dump(mode="json")
    run = run_train(load_recipe(wanted, (), {"reduction.dropped": dropped}))
    model = load_model(str(folder / "embedder"), "embedding")
    task = load_task(model, folder / "plain.txt", kind="embedding")
    inputs = task.test.batch(range(len(task.test)))
    with torch.no_grad(), rltr.attach(model, run / POLICY_FOLDER, cost_weight=8.0) as attached:
        none_yet = attached.kept
        states = model(**inputs).last_hidden_state
        kept = attached.kept
        assert kept is not None and kept.total < int(inputs["attention_mask"].sum())
        pooled = rltr.mean_of_kept(states, kept)
    assert none_yet is None
    with torch.no_grad(), attached.reduction.backbone.attached():
        output, trace = attached.reduction(inputs)
    assert torch.equal(pooled, task.test.goal.read(output, inputs, trace))
    by_hand = []
    for row in range(len(kept.counts)):
        mine = kept.row == row
        size = torch.ones(int(mine.sum())) if kept.size is None else kept.size[mine]
        by_hand.append((states[row, kept.position[mine]] * size[:, None]).sum(0) / size.sum())
    torch.testing.assert_close(pooled, torch.stack(by_hand))


def test_merged_tokens_keep_their_weight_in_the_mean() -> None:
    """Two equal tokens merged into one pool to what they were."""
    from rltr import tokens as ragged

    states = torch.tensor([[[1.0, 0.0], [4.0, 2.0], [4.0, 2.0]]])
    whole = ragged.everything(1, 3)
    kept = torch.tensor([True, True, False])
    hidden, left = ragged.merge(states[0], whole, kept, torch.tensor([1]), torch.tensor([True]))
    grid = ragged.grid_of(left, hidden)
    torch.testing.assert_close(mean_of_kept(grid, left), states.mean(1))


def test_a_text_ends_where_its_line_does(folder: Path, tmp_path: Path) -> None:
    texts = ["ann likes\u2028tea", "bob\x0clives\x1cin\x85rome", "red tea"]
    (tmp_path / "x.txt").write_bytes(("\ufeff" + "\r\n".join([texts[0], "", *texts[1:]] * 5)).encode())
    task = load_task(load_model(str(folder / "embedder"), "embedding"), tmp_path / "x.txt", kind="embedding")
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 15
    assert isinstance(task.train, Subset) and isinstance(task.train.examples, TextExamples)
    assert list(task.train.examples.texts[1:3]) == texts[1:]
    assert task.train.examples.places is not None and task.train.examples.places[1].endswith("line 3")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", b"\n\n", "no texts"),
        ("x.txt", b"caf\xe9\n", "not UTF-8"),
        ("x.csv", b"sentence\ntea\n", "no column 'text'"),
        ("x.md", b"tea\n", "no data file"),
    ],
)
def test_texts_that_cannot_be_read(folder: Path, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    model = load_model(str(folder / "embedder"), "embedding")
    with pytest.raises(RltrError, match=said):
        load_task(model, tmp_path / name, kind="embedding")


def test_a_folder_without_images(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RltrError, match="no images in"):
        load_task(load_model(str(folder / "seer"), "embedding"), tmp_path, kind="embedding")


# Images among described classes


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


def test_who_reduces_the_vision_tower_makes_the_whole_model_cheaper(folder: Path, tmp_path: Path) -> None:
    run = run_train(recipe(folder, tmp_path / "run", "zero-shot"))
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


def test_the_other_tower_can_be_reduced_as_well(folder: Path) -> None:
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


def test_zero_shot_mistakes(folder: Path, tmp_path: Path) -> None:
    tower = load_model(str(folder / "clip"))
    (tmp_path / "tea").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "tea" / "1.png")
    with pytest.raises(RltrError, match="one class only"):
        load_task(tower, tmp_path, kind="zero-shot")
    with pytest.raises(RltrError, match="no {} for the name"):
        DataOptions(template="a photo")
    with pytest.raises(RltrError, match="model types are: clip, siglip"):
        vision_tower(ViTModel(ViTConfig(**VISION)))


# Kinds


def test_a_recipe_knows_every_kind() -> None:
    assert set(get_args(DataGroup.model_fields["kind"].annotation)) == {"auto", *KINDS}


def test_classes_stay_what_they_were(tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]) -> None:
    goal, logits = Classification(), tiny_vit(**image_inputs).logits
    assert torch.equal(goal.read({"logits": logits}, image_inputs), logits)
    with Backbone(tiny_vit).attached() as backbone:
        output, trace = Reduction(backbone, KeepAll(), [1])(image_inputs)
        assert torch.equal(goal.read(output, image_inputs, trace), output["logits"])
