"""A training goes on with the model and the data it began with, by content: no others, and wherever they lie by now."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTForImageClassification

from rltr.deploy import load_policy
from rltr.errors import RltrError
from rltr.jobs import training as jobs
from rltr.jobs.evaluation import history_of
from rltr.jobs.training import run_train
from rltr.recipe import load_recipe
from rltr.system.folders import POLICY_FOLDER, RECIPE_FILE
from rltr.tasks import Examples, TensorExamples
from rltr.tasks.read.stored_files import END, digest_contents
from rltr.train.origin import origin
from tests.jobs.conftest import recipe


@pytest.fixture
def mine(folder: Path, tmp_path: Path) -> Path:
    """Model and data that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "user"))


def trained_further(mine: Path) -> None:
    model: Any = ViTForImageClassification.from_pretrained(mine / "vit")
    with torch.no_grad():
        # Once rounded to bfloat16, as the fingerprint of a policy does, this is the same model.
        model.classifier.bias[0] = torch.nextafter(model.classifier.bias[0], torch.tensor(torch.inf))
    model.save_pretrained(mine / "vit")


def other_normalisation(mine: Path) -> None:
    change_json(mine / "vit" / "preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])


def other_epsilon(mine: Path) -> None:
    change_json(mine / "vit" / "config.json", layer_norm_eps=1e-3)


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def one_pixel(mine: Path) -> None:
    file = mine / "photos" / "dark" / "3.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[5, 5] ^= 128
    stat = file.stat()
    Image.fromarray(pixels).save(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # whoever restores a backup restores its times


def swapped(mine: Path) -> None:
    files = [mine / "photos" / name / "0.png" for name in ("dark", "light")]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_bytes(content)


def one_more(mine: Path) -> None:
    shutil.copy(mine / "photos" / "light" / "0.png", mine / "photos" / "light" / "another.png")


def one_less(mine: Path) -> None:
    (mine / "photos" / "light" / "0.png").unlink()


def another_word(mine: Path) -> None:
    file = mine / "reviews.csv"
    file.write_text(file.read_text().replace("fine", "poor", 1))


def another_label(mine: Path) -> None:
    lines = (mine / "reviews.csv").read_text().splitlines()
    lines[1] = lines[1].replace("dark", "light")
    (mine / "reviews.csv").write_text("\n".join(lines) + "\n")


def another_tokenizer(mine: Path) -> None:
    file = next(path for path in (mine / "bert" / "tokenizer.json", mine / "bert" / "vocab.txt") if path.exists())
    file.write_text(file.read_text().replace("fine", "FINE").replace("poor", "fine").replace("FINE", "poor"))


OTHERS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a weight's last bit": ("image", trained_further, "the model at .*fingerprint was .*, now it is .*--model"),
    "layer norm": ("image", other_epsilon, "the model at .*fingerprint was"),
    "normalisation": ("image", other_normalisation, "data at .*train was .*, now .*validation was .*test was .*--data"),
    "one pixel": ("image", one_pixel, "data at .*fingerprints"),
    "two swapped": ("image", swapped, "data at .*fingerprints"),
    "one more": ("image", one_more, "data at .*fingerprints"),
    "one less": ("image", one_less, "data at .*fingerprints"),
    "a word": ("text", another_word, "data at .*fingerprints"),
    "a label": ("text", another_label, "data at .*fingerprints"),
    "a tokenizer": ("text", another_tokenizer, "data at .*fingerprints"),
}


@pytest.mark.parametrize(("kind", "change", "said"), OTHERS.values(), ids=OTHERS)
def test_others_under_the_same_name_are_refused(
    mine: Path, tmp_path: Path, kind: str, change: Callable[[Path], None], said: str
) -> None:
    run = run_train(recipe(mine, tmp_path / "run", kind, **{"learner.rollouts": 8})).folder
    change(mine)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RltrError, match=said) as refused:
        run_train(recipe(mine, run, kind), resume=True)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_what_was_moved_goes_on_to_the_same_bits(mine: Path, tmp_path: Path) -> None:
    """Model, data and run in another place, with other times: what is in them is what counts."""
    steady = {"learner.final_learning_rate": 1.0}  # or it would fall sooner in the shorter run
    whole = run_train(recipe(mine, tmp_path / "whole", **steady)).folder
    run = run_train(recipe(mine, tmp_path / "run", **steady, **{"learner.rollouts": 8})).folder
    there = tmp_path / "elsewhere"
    shutil.copytree(mine, there / "user", copy_function=shutil.copyfile)
    run = Path(shutil.move(run, there / "run"))
    shutil.rmtree(mine)
    run_train(recipe(there / "user", run, **steady), resume=True)
    assert load_recipe(run / RECIPE_FILE).data.source == str(there / "user" / "photos")
    assert [row["rollouts"] for row in history_of(run)] == [8, 16]
    weights = [load_policy(path / POLICY_FOLDER).network.state_dict() for path in (whole, run)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_training_without_its_data_or_embedded_ones_is_another(mine: Path, tmp_path: Path) -> None:
    run = run_train(recipe(mine, tmp_path / "run")).folder
    with pytest.raises(RltrError, match="data.source was .*, now 'embedded'|embedded data"):
        run_train(recipe(mine, run, **{"data.source": "embedded"}), resume=True)


# Contents


def test_contents_are_told_apart_and_places_are_not(tmp_path: Path) -> None:
    contents = [b"", b"a", b"ab", bytes(END), bytes(2 * END), bytes(2 * END + 1), b"x" + bytes(2 * END)]
    contents += [bytes(2 * END) + b"x", bytes(END - 1) + b"x" + bytes(END)]
    found = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        files = [tmp_path / folder / f"{folder}-{i}" for i in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        found.append([digest_contents([file]) for file in files])
        assert digest_contents(files[:2]) != digest_contents([files[1], files[0]])
    found.append([digest_contents([{"bytes": content, "path": None}]) for content in contents])
    assert found[0] == found[1] == found[2] and len(set(found[0])) == len(contents)
    assert digest_contents([tmp_path / "nothing"]) != digest_contents([None])  # read later, and told then


class Unmarked(TensorExamples):
    """As data that somebody made, which cannot be told apart cheaply."""

    def fingerprint(self) -> str:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [TensorExamples, Unmarked])
def test_every_kind_of_examples_has_a_content(kind: type[TensorExamples]) -> None:
    def make(seed: int = 0, labels: int = 0, classes: str = "abc") -> Examples:
        pixels = torch.randn(30, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        names = [str(i) for i in range(30)]
        return kind((torch.arange(30) + labels) % 3, names, list(classes), {"pixel_values": pixels})

    made = [make(), make(1), make(0, 1), make(classes="abd"), make().subset(range(29)), make().subset([1, 0, 2])]
    contents = [examples.content() for examples in made]
    assert len(set(contents)) == len(contents)
    assert make().content() == contents[0] and make().subset([1, 0, 2]).content() == contents[5]
    assert make().subset(range(30)).content() == make().subset(range(30)).content()


def test_a_model_is_told_apart_from_itself_in_another_precision(mine: Path) -> None:
    backbone, task = jobs.prepare(recipe(mine, mine / "run"))
    before = origin(backbone, task)
    assert origin(backbone, task) == before and set(before) == {"model", "train", "validation", "test"}
    assert len(set(before.values())) == 4
    backbone.model.to(torch.bfloat16)
    vars(backbone).pop("fingerprint", None)
    after = origin(backbone, task)
    assert after["model"] != before["model"] and after["train"] == before["train"]
