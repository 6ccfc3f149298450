"""Selectors, cost models and goals that other packages add through entry points."""

from copy import copy
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import Float
from torch import Tensor

import rltr
import rltr.system.registry
from rltr.cost import COST_MODELS, FlopsCost
from rltr.errors import RltrError
from rltr.recipe import load_recipe
from rltr.runtime.decision import Decision
from rltr.selectors import BASELINES, KeepRate, Ranking, baseline
from rltr.system.registry import Registry
from rltr.tasks import Task
from rltr.tasks.goals import Classification, Consistency
from rltr.tasks.goals.chosen import GOALS, with_goal


class FirstTokens(Ranking):
    """A selector of another package: it keeps the first tokens."""

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        return -decision.tokens.position.float()


class Doubled(FlopsCost):
    """A cost model of another package."""

    name = "doubled"


class Unfinished:
    name = "unfinished"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that installs entry points (group, name, class); registries are read again, also at the end."""
    registries: tuple[Any, ...] = (BASELINES, COST_MODELS, GOALS)

    def read_again() -> None:
        for registry in registries:
            vars(registry).pop("_entries", None)
            for name in set(registry._loaded) - set(registry._own):
                del registry._loaded[name]

    def install(*entries: tuple[str, str, str]) -> None:
        found = [EntryPoint(name, value, group) for group, name, value in entries]
        monkeypatch.setattr(
            rltr.system.registry, "entry_points", lambda group: EntryPoints(e for e in found if e.group == group)
        )
        read_again()

    yield install
    monkeypatch.undo()
    read_again()


def test_a_selector_of_another_package(installed: Any) -> None:
    installed(("rltr.selectors", "first", f"{__name__}:FirstTokens"))
    assert list(BASELINES)[-1] == "first" and len(BASELINES) == len(list(BASELINES))
    assert isinstance(baseline("first", 0.5), FirstTokens)
    recipe = load_recipe(None, (), {"evaluation.methods": ["first", "random"]})
    assert recipe.evaluation.methods == ["first", "random"]
    with pytest.raises(RltrError, match="there is no selector 'last'; choose from .*first"):
        load_recipe(None, (), {"evaluation.methods": ["last"]})


def test_a_cost_model_of_another_package(installed: Any) -> None:
    installed(("rltr.cost_models", "doubled", f"{__name__}:Doubled"))
    assert COST_MODELS["doubled"] is Doubled
    assert load_recipe(None, (), {"cost.kind": "doubled"}).cost.kind == "doubled"
    with pytest.raises(RltrError, match="choose from flops, latency, doubled"):
        load_recipe(None, (), {"cost.kind": "tripled"})


def test_an_entry_point_is_imported_when_it_is_first_used(installed: Any) -> None:
    installed(("rltr.selectors", "broken", "no_such_module_of_anybody:Rule"))
    assert "broken" in BASELINES and "broken" in list(BASELINES)
    with pytest.raises(RltrError, match="'broken' of rltr.selectors cannot be loaded from no_such_module.*No module"):
        BASELINES["broken"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (("rltr.selectors", "odd", f"{__name__}:Unfinished"), "is not a subclass of KeepRate"),
        (("rltr.selectors", "odd", "torch:zeros"), "is not a subclass of KeepRate"),
        (("rltr.cost_models", "odd", f"{__name__}:Unfinished"), "lacks unit, depth, layer"),
        (("rltr.cost_models", "odd", "torch:zeros"), "is not a class"),
    ],
)
def test_invalid_entry_points_are_refused(installed: Any, entry: tuple[str, str, str], said: str) -> None:
    installed(entry)
    registry: Any = BASELINES if entry[0] == "rltr.selectors" else COST_MODELS
    with pytest.raises(RltrError, match=said):
        registry["odd"]


def test_duplicate_names_are_refused(installed: Any) -> None:
    installed(("rltr.selectors", "norm", f"{__name__}:FirstTokens"))
    with pytest.raises(RltrError, match="adds 'norm' to rltr.selectors, but rltr's own class has this name"):
        list(BASELINES)
    installed(("rltr.selectors", "mine", f"{__name__}:FirstTokens"), ("rltr.selectors", "mine", f"{__name__}:Other"))
    with pytest.raises(RltrError, match="both add 'mine'"):
        BASELINES["mine"]


def test_an_unknown_name_is_a_key_error() -> None:
    registry: Registry[KeepRate] = Registry("rltr.nothing", {}, base=KeepRate)
    assert len(registry) == 0 and "any" not in registry
    with pytest.raises(KeyError):
        registry["any"]


class TopTwo(Classification):
    """A goal of another package."""

    quality_name = "top-2 accuracy"

    def quality(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> Tensor:
        return (reduced.topk(2).indices == labels[:, None]).any(-1).float()


def test_a_goal_of_another_package(installed: Any, tiny_vit: Any, tiny_task: Task) -> None:
    installed(("rltr.goals", "top2", f"{__name__}:TopTwo"))
    assert with_goal(tiny_task, tiny_vit, "auto") is tiny_task
    task = with_goal(tiny_task, tiny_vit, "top2")
    assert type(tiny_task.train.goal) is Classification
    assert {type(split.goal) for split in (task.train, task.validation, task.test)} == {TopTwo}
    with pytest.raises(RltrError, match=r"no goal 'top3' \(data.goal\); choose one of auto, top2"):
        with_goal(task, tiny_vit, "top3")


def test_a_goal_of_another_package_in_a_training(installed: Any, tmp_path: Path) -> None:
    installed(("rltr.goals", "top2", f"{__name__}:TopTwo"))
    few = {"train_limit": 16, "validation_limit": 16, "examples": 16, "rollouts": 8, "batch": 8, "threads": 1}
    run = rltr.train(out=tmp_path / "run", goal="top2", cost={"kind": "flops"}, **few)
    assert run.policy.quality_name == "top-2 accuracy"
    assert "rltr/top-2_accuracy" in run.history()[0]
    evaluation = rltr.evaluate(run, methods=["random"], keep_rates=[0.5], cost_weights=[1.0], gallery=0)
    assert evaluation.quality_name == "top-2 accuracy" and "top-2_accuracy" in evaluation.to_dataframe()


def test_a_goal_of_another_package_without_labels(installed: Any, tiny_vit: Any, tiny_task: Task) -> None:
    installed(("rltr.goals", "top2", f"{__name__}:TopTwo"))
    task = Task(*(copy(split) for split in (tiny_task.train, tiny_task.validation, tiny_task.test)), tiny_task.kind)
    for split in (task.train, task.validation, task.test):
        split.goal = Consistency(Classification(), (3,))
    task = with_goal(task, tiny_vit, "top2")
    assert isinstance(task.train.goal, Consistency) and isinstance(task.train.goal.goal, TopTwo)
