"""Data sets of the hub, by name."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.jobs.preparation import prepare_data
from rltr.recipe import is_hub_name, load_recipe
from rltr.tasks import load_task
from tests.sources.conftest import reviews, sizes


def test_an_unreachable_hub_name_is_refused_in_one_line(bert: PreTrainedModel) -> None:
    with pytest.raises(
        RltrError, match=r"'nobody/nothing' \(looked for '.*nobody.nothing'\) cannot be read: .*HF_HUB_OFFLINE"
    ) as error:
        load_task(bert, "nobody/nothing")
    assert "\n" not in str(error.value)


def test_a_hub_name_is_passed_on_unchanged(bert: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((*arguments, options))
        whole = datasets.DatasetDict(train=reviews(20), test=reviews(4))
        streams = {name: split.to_iterable_dataset() for name, split in whole.items()}
        return datasets.IterableDatasetDict(streams) if options["streaming"] else whole

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    base = {"data.source": "owner/name", "data.subset": "small", "data.validation_limit": 1}
    task = prepare_data(load_recipe(None, (), base), bert)
    assert sizes(task) == [18, 1, 4]
    task = prepare_data(load_recipe(None, (), {**base, "data.stream_examples": 10}), bert)
    assert sizes(task) == [9, 1, 4]
    assert asked == [("owner/name", "small", {"streaming": False}), ("owner/name", "small", {"streaming": True})]


def test_hub_names_are_distinguished_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    assert is_hub_name("owner/name-1.0") and is_hub_name("nyu-mll/glue")
    for path in ("photos/cats", "photos", "./a/b", "/a/b", "~/a", "a/b/c", "../a", "a/.b", ""):
        assert not is_hub_name(path)
