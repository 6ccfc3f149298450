"""The examples: what their assets, their data, their heads and their table promise."""

import hashlib
import importlib
import io
import json
import tarfile
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, BertTokenizer

from rltr.errors import RltrError
from rltr.recipe import load_recipe
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks.examples.texts import TextExamples
from rltr.tasks.examples.tokenizer import load_tokenizer
from rltr.tasks.models import load_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def root():
    """The repository's root can be imported from here, and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


def example(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without assets, and none to be found elsewhere."""
    monkeypatch.delenv("RLTR_ASSETS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example("assets"), "find_spec", lambda name: None)
    return tmp_path


# Assets


@pytest.mark.parametrize("name", ["MINILM", "SPAM_ASSASSIN", "VADER"])
def test_what_is_missing_is_said_with_the_command_that_gets_it(nowhere: Path, name: str) -> None:
    assets = example("assets")
    asset = getattr(assets, name)
    with pytest.raises(RltrError, match="not found; get it with") as error:
        assets.find(asset, nowhere)
    assert asset.fetch.format(folder=nowhere) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_another_one_is_refused(nowhere: Path) -> None:
    assets = example("assets")
    (nowhere / assets.VADER.path).write_bytes(b"something else")
    with pytest.raises(RltrError, match=hashlib.sha256(b"something else").hexdigest()):
        assets.find(assets.VADER, nowhere)


def test_the_folder_that_is_given_comes_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = example("assets")
    asset = assets.Asset("it", "it.tgz", ".", hashlib.sha256(b"it").hexdigest(), "get it")
    for folder in ("given", "named", "runs/assets"):
        (nowhere / folder).mkdir(parents=True)
        (nowhere / folder / "it.tgz").write_bytes(b"it")
    monkeypatch.setenv("RLTR_ASSETS", str(nowhere / "named"))
    assert assets.find(asset, nowhere / "given") == nowhere / "given" / "it.tgz"
    assert assets.find(asset) == nowhere / "named" / "it.tgz"
    monkeypatch.delenv("RLTR_ASSETS")
    assert assets.find(asset) == Path("runs/assets/it.tgz")


def test_a_package_is_found_without_being_run(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = example("assets")
    package = nowhere / "site" / "weights_in_a_package"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('this package was run')\n")
    (package / "model" / "weights").write_bytes(b"it")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(nowhere / "site"))
    digest = hashlib.sha256(b"it").hexdigest()
    asset = assets.Asset("it", "weights_in_a_package/model", "weights", digest, "get it")
    assert assets.find(asset) == package / "model"


# Texts


def mail(*parts: tuple[str, str], encoding: str = "7bit", **headers: str) -> str:
    message = EmailMessage()
    for name, value in headers.items():
        message[name] = value
    for number, (kind, text) in enumerate(parts):
        add = message.set_content if number == 0 else message.add_alternative
        add(text, subtype=kind, cte=encoding)
    return message.as_string()


def test_only_the_body_of_a_mail_is_read() -> None:
    found = example("mails").body(mail(("plain", "Dear\n\n  all,\tgood day"), Subject="Secret", X_Spam="yes"))
    assert found == "Dear all, good day"


@pytest.mark.parametrize("encoding", ["quoted-printable", "base64"])
def test_bodies_are_decoded(encoding: str) -> None:
    assert example("mails").body(mail(("plain", "naïve café"), encoding=encoding)) == "naïve café"


def test_pages_lose_tags_scripts_and_styles() -> None:
    page = "<html><head><style>p {x}</style></head><p>One<br>two &amp; <b>three</b><script>run()</script></p></html>"
    body = example("mails").body
    assert body(mail(("html", page))) == "One two & three"
    assert body(mail(("plain", page))) == "One two & three"  # spam is often called plain and is a page
    assert body(mail(("plain", "plain it is"), ("html", page))) == "plain it is"


def test_a_character_set_that_does_not_exist_loses_nothing() -> None:
    text = 'Content-Type: text/plain; charset="none"\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9'
    assert example("mails").body(text) == "café"


def test_mails_and_sentences_are_read_from_their_archives(tmp_path: Path) -> None:
    mails = {f"package/data/{group}/{i}.json": group for i, group in enumerate(["spam-2", "easy-ham-1", "elsewhere"])}
    content = {name: json.dumps({"text": mail(("plain", f"from {group}"))}) for name, group in mails.items()}
    read = list(example("mails").read_mails(archive(tmp_path / "mails.tgz", content)))
    assert read == [("from easy-ham-1", "ham"), ("from spam-2", "spam")]
    sentences = example("sentences")
    lines = "\ufeff1\t2.5\tVery  good\r\n2\t-0.5\tSo so\r\n3\t-0.51\tPoor\r\n"
    inner = archive(tmp_path / "inner.tgz", {sentences.FILE: lines})
    outer = archive(tmp_path / "outer.tgz", {sentences.INNER: inner.read_bytes()})
    assert list(sentences.read_sentences(outer)) == [("Very good", "positive"), ("Poor", "negative")]


def archive(path: Path, files: dict[str, Any]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            raw = content if isinstance(content, bytes) else content.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            packed.addfile(entry, io.BytesIO(raw))
    return path


# Splits


def labelled(text: str, label: str) -> Any:
    return example("splits").Labelled(text, label)


def text(start: int, words: int) -> str:
    return " ".join("abcdefghij"[int(c)] * 2 for n in range(start, start + words) for c in str(n))


def test_copies_go_and_the_longest_stays() -> None:
    quoted, answer, other = text(1000, 30), "So it is. " + text(1000, 40), text(5000, 30)
    records = [labelled(t, "ham") for t in (quoted, answer, other, answer + " PS", other.upper(), "short", "short")]
    kept = [record.text for record in example("splits").without_copies(records)]
    assert kept == [other, answer + " PS", "short"]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=30).map(" ".join), max_size=12))
def test_no_text_that_stays_is_mostly_in_another(texts: Sequence[str]) -> None:
    splits = example("splits")
    kept = splits.without_copies([labelled(text, "x") for text in texts])
    assert bool(kept) == bool(texts)
    runs = [splits.runs_of_words(record.text) for record in kept]
    for i, mine in enumerate(runs):
        longer = [other for j, other in enumerate(runs) if j != i and len(other) > len(mine)]
        assert all(2 * len(mine & other) <= len(mine) for other in longer)
    assert len({record.text for record in kept}) == len(kept)


def test_splits_share_nothing_and_depend_on_the_seed_only(tmp_path: Path) -> None:
    splits = example("splits")
    records = [labelled(f"text {i}", "ham" if i % 4 else "spam") for i in range(80)]
    counts = splits.write_splits(records, tmp_path / "a")
    splits.write_splits(records, tmp_path / "b")
    splits.write_splits(records, tmp_path / "c", seed=1)
    files = {folder: [(tmp_path / folder / f"{name}.jsonl").read_text() for name in splits.NAMES] for folder in "abc"}
    assert files["a"] == files["b"] != files["c"]
    lines = [line for file in files["a"] for line in file.splitlines()]
    assert sorted(json.loads(line)["text"] for line in lines) == sorted(record.text for record in records)
    assert counts["train"] == {"ham": 33, "spam": 11} and counts["test"] == {"ham": 18, "spam": 6}


# Heads


def features(count: int = 600) -> Any:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    state = torch.randn(count, 16, generator=generator) * 0.1 + labels[:, None] * 0.3 + 5
    return example("features").Features(state, state + 1, labels)


def test_a_head_learns_and_a_plain_pooler_does_the_same() -> None:
    heads, given = example("train_head"), features()
    head = heads.fit(given, 2)
    assert heads.accuracy(head(given.first), given.labels) > 0.9
    assert heads.linear_accuracy(given, given, 2) > 0.9
    weight, bias = head.plain_pooler()
    logits = head.classifier((given.first @ weight.T + bias).tanh())
    torch.testing.assert_close(logits, head(given.first), rtol=1e-4, atol=1e-4)


def test_the_saved_classifier_is_the_encoder_with_the_head(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = BertModel(BertConfig(**sizes, vocab_size=20, max_position_embeddings=8)).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    heads = example("train_head")
    head = heads.fit(features(), 2)
    heads.classifier(tmp_path / "encoder", head, ["ham", "spam"]).save_pretrained(tmp_path / "saved")
    loaded = load_model(str(tmp_path / "saved"))
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        wanted = head(encoder(**inputs).last_hidden_state[:, 0])
        torch.testing.assert_close(loaded(**inputs).logits, wanted, rtol=1e-4, atol=1e-4)
    assert loaded.config.id2label == {0: "ham", 1: "spam"}


def test_missing_data_is_said_with_the_command_that_makes_it(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = example("train_head")
    monkeypatch.setattr(heads, "find", lambda asset, folder: nowhere)
    with pytest.raises(RltrError, match="python -m examples.make_data vader"):
        heads.train("vader", None, nowhere, 0)


@pytest.mark.parametrize("name", ["spam", "vader"])
def test_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(ROOT / "examples" / f"{name}.yaml")
    assert recipe.model.source == f"runs/examples/minilm-{name}" and recipe.data.source == f"runs/examples/{name}"
    assert name != "spam" or recipe.evaluation.gallery == 0  # no mail is shown


# The table


def test_the_time_at_an_accuracy_lies_on_the_front() -> None:
    time_at = example("caps").time_at
    curve = [(0.2, 0.80), (0.4, 0.90), (0.5, 0.85), (0.8, 0.92)]
    assert time_at(curve, 0.85) == pytest.approx(0.3)  # the point at 0.5 is dominated
    assert time_at(curve, 0.91) == pytest.approx(0.6)
    assert time_at(curve, 0.5) == 0.2 and time_at(curve, 0.92) == pytest.approx(0.8)
    assert time_at(curve, 0.93) is None and time_at([], 0.5) is None


def test_growth_compares_the_longest_with_the_shortest() -> None:
    rows = [
        {"native ms": 1.0, "packed": 1.0, "policy": 1.0, "baseline": 1.0},
        {"native ms": 10.0, "packed": 2.0, "policy": 4.0, "baseline": None},
    ]
    assert example("caps").growth(rows) == {"native": 10.0, "packed": 5.0, "policy": 2.5, "baseline": None}


def test_a_figure_shows_times_over_length(tmp_path: Path) -> None:
    row = {"cap": 64, "native ms": 1.0, "packed": 1.0, "policy": 2.0, "lowest": 1.5, "highest": 3.0, "baseline": None}
    never = {**row, "cap": 512, "native ms": 9.0, "policy": None, "lowest": None, "highest": None}
    example("caps").draw([row, never], 0.01, tmp_path / "caps.png")
    assert (tmp_path / "caps.png").read_bytes().startswith(b"\x89PNG")


def test_cutting_keeps_labels_with_their_texts() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    texts = TextExamples(["a a", "a a a a", "a", "a a a"], torch.tensor([0, 1, 0, 1]), ["x", "y"], tokenizer, 6)
    cut = example("caps").cut
    assert cut(texts, 4, None).batch(range(4))["attention_mask"].sum(1).tolist() == [4, 4, 3, 4]
    long = cut(texts, 4, 5)  # two special tokens count
    assert long.texts == ["a a a a", "a a a"] and long.labels.tolist() == [1, 1]
    some = cut(texts.subset([3, 1, 0]).subset([1, 2]), 4, None)
    assert some.texts == ["a a a a", "a a"] and some.labels.tolist() == [1, 0]
    with pytest.raises(SystemExit, match="no test text has 7 tokens"):
        cut(texts, 7, 7)


# With the real things


def asset(name: str) -> Path:
    assets = example("assets")
    try:
        return assets.find(getattr(assets, name))
    except RltrError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "needs", "count"), [("spam", "SPAM_ASSASSIN", 3984), ("vader", "VADER", 10040)])
def test_real_data(tmp_path: Path, name: str, needs: str, count: int) -> None:
    asset(needs)
    example("make_data").make(name, None, tmp_path, 0)
    splits = [(tmp_path / name / f"{split}.jsonl").read_text("utf-8").splitlines() for split in example("splits").NAMES]
    assert sum(map(len, splits)) == len(set().union(*splits)) == count


def test_the_real_minilm_is_unchanged_and_exact(tmp_path: Path) -> None:
    weights, heads = asset("MINILM"), example("train_head")
    width = 384
    state = torch.randn(40, width)
    head = heads.fit(example("features").Features(state, state, torch.arange(40) % 2), 2, epochs=1)
    heads.save(weights, head, ["negative", "positive"], tmp_path / "saved")
    model = load_model(str(tmp_path / "saved"))
    tokenizer = load_tokenizer(model, str(tmp_path / "saved"))
    texts = ["A fine film.", "Poor, and far too long for what little it has to tell.", "So so"]
    inputs = dict(
        TextExamples(texts, torch.tensor([1, 0, 0]), ["negative", "positive"], tokenizer, 512).batch([0, 1, 2])
    )
    assert inputs["input_ids"].shape[1] < 20  # MiniLM's own tokenizer file asks for padding to 128
    backbone = Backbone(model)
    with torch.no_grad():
        native = model(**inputs).logits
        with backbone.attached():
            output, _ = ReducedModel(backbone, KeepAll(), [0, 2], "merge")(inputs)
    torch.testing.assert_close(output["logits"], native, rtol=1e-4, atol=1e-4)
