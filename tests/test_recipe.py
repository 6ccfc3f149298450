"""Recipes are read back as they were written, and errors are one helpful line."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rltr.cost import COST_MODELS
from rltr.errors import RltrError
from rltr.recipe import (
    Recipe,
    find_recipe,
    load_recipe,
    recipe_text,
    refuse_changes,
    save_recipe,
    stored_recipe,
    with_absolute_paths,
)
from rltr.recipe.inputs import DataGroup
from rltr.recipe.learning import CostGroup
from rltr.selectors import BASELINES, baseline
from rltr.tasks import KINDS, SCORES


def leaves(group: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every dotted key of the recipe, with its field."""
    found: dict[str, Any] = {}
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= leaves(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


KEYS = leaves(Recipe)

values_that_fit = st.fixed_dictionaries(
    {},
    optional={
        "model.source": st.text(min_size=1),
        "data.text_column": st.text(min_size=1),
        "data.train_limit": st.none() | st.integers(1, 10**9),
        "reduction.layers": st.just("auto") | st.sets(st.integers(0, 99), min_size=1).map(sorted),
        "learner.learning_rate": st.floats(1e-9, 1, exclude_min=True),
        "learner.cost_weight": st.tuples(st.floats(1e-6, 1), st.floats(1, 1e6)),
        "evaluation.keep_rates": st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
        "evaluation.methods": st.lists(st.sampled_from(sorted(BASELINES)), max_size=3),
        "cost.table": st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(Path),
        "out": st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1).map(Path),
    },
)


@given(values_that_fit)
def test_text_reads_back_unchanged(values: dict[str, object]) -> None:
    recipe = load_recipe(values=values)
    assert load_recipe(yaml.safe_load(recipe_text(recipe))) == recipe


def test_file_reads_back_unchanged(tmp_path: Path) -> None:
    recipe = load_recipe("quick", ["learner.seed=7", "learner.learning_rate=1e-4", "reduction.layers=[1, 2]"])
    save_recipe(recipe, tmp_path / "new" / "recipe.yaml")
    assert load_recipe(tmp_path / "new" / "recipe.yaml") == recipe
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["recipe.yaml"]
    assert recipe.learner.learning_rate == 1e-4


def test_later_settings_override_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("learner: {seed: 1, epochs: 2, rollouts: 1000}\npolicy:\n")
    learner = load_recipe(file, ["learner.seed=2", "learner.epochs=3"], {"learner.seed": 4}).learner
    assert (learner.seed, learner.epochs, learner.rollouts) == (4, 3, 1000)


@pytest.mark.parametrize("name", ["demo", "quick"])
def test_shipped_recipes_are_found_by_name(name: str) -> None:
    recipe = load_recipe(name)
    assert find_recipe(name).suffix == ".yaml"
    for method in recipe.evaluation.methods:
        baseline(method, keep_rate=0.5)


def test_every_field_has_a_description() -> None:
    text = recipe_text(load_recipe())
    for key, field in KEYS.items():
        assert field.description, key
        assert f"# {field.description}" in text


def test_choices_are_those_of_the_registries() -> None:
    for name in COST_MODELS:
        assert load_recipe(None, (), {"cost.kind": name}).cost.kind == name
        assert name in str(CostGroup.model_fields["kind"].description)
    assert set(get_args(DataGroup.model_fields["kind"].annotation)) == {"auto", *KINDS}
    assert set(get_args(Recipe.model_fields["score"].annotation)) == set(SCORES)


@given(st.sampled_from(sorted(KEYS)), st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
def test_unknown_keys_are_named_with_the_valid_ones(key: str, wrong: str) -> None:
    group, _, _ = key.rpartition(".")
    siblings = [name.rpartition(".")[2] for name in KEYS if name.rpartition(".")[0] == group]
    unknown = f"{group}.{wrong}" if group else wrong
    if wrong in siblings or unknown in Recipe.model_fields:
        return
    with pytest.raises(RltrError) as refused:
        load_recipe(None, [f"{unknown}=1"])
    message = str(refused.value)
    assert repr(unknown) in message and "\n" not in message
    assert all(sibling in message for sibling in siblings)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learner.rollout=10", "did you mean 'learner.rollouts'"),
        ("seed=3", "did you mean 'learner.seed'"),
        ("learner.group_size=0", "learner.group_size is 0: must be greater than or equal to 2"),
        ("learner.group_size=true", "must not be true or false"),
        ("learner.batch=510", "not a multiple of group_size 4; use a multiple, e.g. 508"),
        ("learner.rollouts=8", "fewer than one batch"),
        ("learner.learning_rate=fast", "must be a valid number"),
        ("learner.learning_rate=.nan", "finite"),
        ("learner.cost_weight=[2, 1]", "the lower first"),
        ("learner=3", "must be a group of fields"),
        ("cost.kind=money", "no cost model 'money'; choose from flops, latency"),
        ("reduction.layers=[3, 1]", "ascending order"),
        ("reduction.layers=first", "'auto' or a valid list"),
        ("reduction.attention=fast", "no backend 'fast'; choose from auto, sdpa-per-row"),
        ("data.max_tokens=2", "greater than or equal to 3"),
        ("evaluation.keep_rates=[0.5, 1.5]", "at most 1"),
        ("evaluation.cost_weights=[]", "at least 1 item"),
        ("evaluation.cost_weights=[0, 1]", "each must be above 0"),
        ("evaluation.cost_weights=[.inf]", "finite"),
        ("evaluation.examples=1", "greater than or equal to 2"),
        ("evaluation.methods=[random, best]", "no selector 'best'; choose from random, norm, cls_attention"),
        ("cost={kind: flops, table: t.json}", "cost: table has measured times, but kind is 'flops'"),
        ("data.fractions=[0.9, 0.1, 0.1]", "sum to 1"),
        ("learner.seed", "group.field=value"),
        ("=3", "group.field=value"),
        ("learner.seed=[", "not valid YAML"),
    ],
)
def test_wrong_values_get_one_line(override: str, said: str) -> None:
    with pytest.raises(RltrError) as refused:
        load_recipe(None, [override])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"learner: [1", "not valid YAML: line 1"),
        (b"- a\n- b\n", "not a list"),
        (b"\xff\xfe\xff", "cannot be read as text"),
        (b"learner: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_files_that_are_not_recipes_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(RltrError) as refused:
        load_recipe(file)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tilde_is_expanded_to_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell does not expand `--out=~/x`, and no shell sees a file."""
    monkeypatch.setenv("HOME", "/home/me")
    recipe = load_recipe(None, ["out=~/x", "cost.table=~/t.json"])
    assert (recipe.out, recipe.cost.table) == (Path("/home/me/x"), Path("/home/me/t.json"))
    assert load_recipe(None, ["out=~nobody-of-this-name/x"]).out == Path("~nobody-of-this-name/x")


RESUMED = {
    "learner.rollouts": 65_000,
    "learner.learning_rate": 1e-3,
    "learner.final_learning_rate": 0.5,
    "learner.max_grad_norm": 0.1,
    "learner.checkpoint_every": 3,
    "evaluation.repeats": 2,
    "report_to": [],
    "device": "cuda",
    "threads": 2,
    "out": "elsewhere",
}


@pytest.mark.parametrize("key", RESUMED)
def test_fields_that_may_change_when_resuming(key: str) -> None:
    refuse_changes(load_recipe(), load_recipe(values={key: RESUMED[key]}))


def test_fields_that_may_not_change_when_resuming() -> None:
    """All other fields are refused, with their name and both values."""
    before = load_recipe()
    for key in KEYS:
        if key in RESUMED or key.startswith("evaluation."):
            continue
        group, _, name = key.rpartition(".")
        inner = getattr(before, group) if group else before
        changed = inner.model_copy(update={name: "other"})
        after = before.model_copy(update={group: changed}) if group else changed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydantic warns that "other" is not a number
            with pytest.raises(RltrError, match=f"{key} was .*, now 'other'.*may change: learner.rollouts"):
                refuse_changes(before, after)


def test_stored_recipes_of_other_versions_are_read_or_refused() -> None:
    recipe = load_recipe("quick")
    assert stored_recipe(recipe.model_dump(mode="json"), "here") == recipe
    assert stored_recipe({}, "here") == load_recipe()  # newer fields get their defaults
    for content, said in (
        ({"learner": {"gamma": 1}}, "unknown key 'learner.gamma'.*another version"),
        (3, "no recipe"),
    ):
        with pytest.raises(RltrError, match=f"in here.*{said}|here has {said}") as refused:
            stored_recipe(content, "here")
        assert "\n" not in str(refused.value)


def test_stored_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "vit").mkdir(parents=True)
    (tmp_path / "mine" / "t.json").touch()
    monkeypatch.chdir(tmp_path / "mine")
    given = {"model.source": "vit", "data.source": "../mine", "cost.table": "t.json", "out": "runs/x"}
    stored = with_absolute_paths(load_recipe(values=given))
    assert stored.model.source == str(tmp_path / "mine" / "vit") and stored.out == Path("runs/x")
    assert Path(stored.data.source).is_absolute() and Path(stored.data.source).samefile(tmp_path / "mine")
    assert stored.cost.table == tmp_path / "mine" / "t.json"
    assert with_absolute_paths(stored) == stored
    refuse_changes(load_recipe(values=given), stored)  # a run of an older version can be resumed
    refuse_changes(stored, load_recipe(values=given))
    with pytest.raises(RltrError, match=r"model.source was .*vit', now 'other'"):
        refuse_changes(stored, load_recipe(values={**given, "model.source": "other"}))


def test_names_of_the_hub_and_of_embedded_data_are_stored_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "embedded").mkdir()
    monkeypatch.chdir(tmp_path)
    for values in ({}, {"model.source": "google/vit", "data.source": "owner/photos", "cost.table": "gone.json"}):
        assert with_absolute_paths(load_recipe(values=values)) == load_recipe(values=values)


def test_a_missing_recipe_is_refused_with_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(RltrError, match="demo, quick"):
        load_recipe(tmp_path / "nothing.yaml")
    with pytest.raises(RltrError, match="is a folder"):
        load_recipe(tmp_path)


def test_accuracy_is_a_valid_score() -> None:
    assert load_recipe(overrides=["score=accuracy"]).score == "accuracy"
    with pytest.raises(RltrError, match="score"):
        load_recipe(overrides=["score=f1"])


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe().learner.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_a_file_or_folder_of_the_same_name_does_not_hide_a_shipped_recipe(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("demo"))
    assert load_recipe("demo").out == Path("rltr-demo")
