"""The Python functions ``rltr.train(...)`` and ``rltr.evaluate(...)``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rltr.deploy.folder import Policy, load_policy
from rltr.errors import RltrError
from rltr.evaluate import Evaluation
from rltr.jobs.evaluation import measure_policy, run_evaluate
from rltr.jobs.run import Run
from rltr.jobs.training import run_train
from rltr.recipe import EMBEDDED, IN_MEMORY, Recipe, by_own_name, load_recipe, stored_recipe
from rltr.system.files import at_home
from rltr.system.folders import RECIPE_FILE, check_out
from rltr.tasks.models import EMBEDDED_MODEL

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback
    from transformers import PreTrainedModel

    Model = str | Path | PreTrainedModel
    Settings = str | Path | Mapping[str, Any] | Recipe


def train(
    model: "Model | None" = None,
    data: Any = None,
    *,
    out: str | Path | None = None,
    recipe: "Settings | None" = None,
    resume: bool = False,
    callbacks: "BaseCallback | Sequence[BaseCallback]" = (),
    progress: bool = False,
    **settings: Any,
) -> Run:
    """Train a policy for a frozen model on your data, as ``rltr train`` does.

    Example:
        >>> run = rltr.train(model, dataset, out="runs/mine", rollouts=20_000, seed=1)
        >>> rltr.attach(model, run.policy, budget=0.6)

    Args:
        model: a folder, a hub id, ``"embedded"``, or a model in memory, in evaluation mode. Its weights do not change.
            None takes the recipe's model.
        data: any data that :func:`rltr.load_task` reads (a folder, a file, a hub name, an object of ``datasets``,
            arrays), or a :class:`rltr.tasks.Task`. None takes the recipe's data.
        out: the folder for all results, which must be new; None takes the recipe's, by default ``runs/rltr``.
        recipe: a YAML file, the name of a recipe that comes with rltr, a mapping of groups, or a recipe. All other
            fields have their defaults, such as the embedded model and data.
        resume: resume the run in ``out`` with its own recipe; model and data must be those it began with.
        callbacks: stable-baselines3 callbacks, one or several. If an ``_on_step`` returns False, the training ends
            early, and the current policy is calibrated and returned.
        progress: show a progress bar on stdout.
        settings: fields of the recipe: by name (``rollouts=20_000``) if only one group has such a field, a group as a
            mapping (``learner={"rollouts": 20_000}``), or by dotted key (``**{"learner.rollouts": 20_000}``).

    Returns:
        The run: its folder, its policy and its log. Messages go to the logger ``rltr``; nothing is printed.

    Raises:
        RltrError: if settings, model, data or folder cannot be used; it is raised before anything is written. Also if a
            tracker does not start, or training diverges; then ``resume=True`` continues in the same folder.
    """
    user_callbacks = _checked(callbacks)
    chosen = {**_named(model, data, out), **by_own_name(settings)}
    if resume:
        if recipe is not None:
            raise RltrError("resume=True takes the run's own recipe; leave out recipe")
        folder = load_recipe(values={"out": chosen["out"]} if "out" in chosen else {}).out
        check_out(folder, resume=True)
        made = load_recipe(folder / RECIPE_FILE, (), {**chosen, "out": folder})
    else:
        made = load_recipe(_plain(recipe), (), chosen)
        if made.model.source != EMBEDDED and "source" not in made.data.model_fields_set:
            raise RltrError(f"there is no data for model {made.model.source!r}; pass it as the second argument, data")
        check_out(made.out)
    return run_train(
        made, resume, model=_object(model), data=_object(data), callbacks=user_callbacks, progress=progress
    )


def evaluate(
    policy: str | Path | Policy | Run,
    model: "Model | None" = None,
    data: Any = None,
    *,
    out: str | Path | None = None,
    recipe: "Settings | None" = None,
    progress: bool = False,
    **settings: Any,
) -> Evaluation:
    """Compare a policy with the baselines on the test split, as ``rltr evaluate`` does.

    Example:
        >>> evaluation = rltr.evaluate(run, methods=["random", "tome"], keep_rates=[0.8, 0.6])
        >>> evaluation.to_dataframe()[["series", "setting", "accuracy", "latency"]]

    Args:
        policy: a policy, its folder, or the run that trained it.
        model: the model that the policy was trained for; None loads it by the name that was given in training.
        data: any data that :func:`rltr.load_task` reads; None loads the data by the name that was given in training.
        out: a folder for the report, numbers and figures, which replace an earlier evaluation; None writes nothing.
        recipe: the settings, as in :func:`rltr.train`; None takes the recipe of the training.
        progress: show a progress bar on stderr.
        settings: fields of the recipe, as in :func:`rltr.train`; ``cost_weights``, ``keep_rates``, ``methods``,
            ``examples`` and ``repeats`` determine what is measured.

    Returns:
        All operating points with their quality, FLOPs, measured time and intervals.

    Raises:
        RltrError: if policy, model and data do not fit each other, or settings or folder cannot be used.
    """
    if isinstance(policy, Run):
        folder, run, loaded = None, policy.folder, policy.policy
    elif isinstance(policy, Policy):
        folder, run, loaded = None, None, policy
    elif not isinstance(policy, str | Path):
        raise RltrError(f"policy must be a folder, a policy or a run, but is a {type(policy).__name__}")
    else:
        folder, run = at_home(policy), None
        loaded = load_policy(folder)
    trained = stored_recipe(loaded.recipe, str(folder or "this policy")).model_dump(mode="json")
    chosen = {**_named(model, data, out), **by_own_name(settings)}
    made = load_recipe(trained if recipe is None else _plain(recipe), (), chosen)
    given = {"model": _object(model), "data": _object(data), "progress": progress}
    if out is None:
        return measure_policy(loaded, made, **given)[2]
    return run_evaluate(folder or loaded, made, run=run, **given)


def _checked(callbacks: "BaseCallback | Sequence[BaseCallback]") -> "list[BaseCallback]":
    """The user's callbacks as a list, checked before anything is loaded."""
    from stable_baselines3.common.callbacks import BaseCallback

    listed = callbacks if isinstance(callbacks, Sequence) else [callbacks]
    odd = [one for one in listed if not isinstance(one, BaseCallback)]
    if odd:
        raise RltrError(
            f"callbacks must be subclasses of stable-baselines3's BaseCallback, but one is a {type(odd[0]).__name__}"
        )
    return list(listed)


def _named(model: "Model | None", data: Any, out: str | Path | None) -> dict[str, Any]:
    """The recipe fields for a model, data and a folder that were passed as arguments."""
    named = {
        "model.source": None if model is None else _model_name(model),
        "data.source": None if data is None else _data_name(data),
        "out": None if out is None else Path(out),
    }
    return {key: value for key, value in named.items() if value is not None}


def _model_name(model: "Model") -> str:
    """The folder or hub id of a model; the weights may differ from those stored there, which a fingerprint detects.

    Raises:
        RltrError: if it is not a model.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, str | Path | PreTrainedModel):
        raise RltrError(
            f"model must be a folder, a hub id, 'embedded', or a PreTrainedModel, but is a {type(model).__name__}; if "
            "it wraps a transformers model, pass that one"
        )
    if isinstance(model, str | Path):
        return str(model)
    # The embedded model in memory is stored by name, so that the embedded data are its default.
    return EMBEDDED if model.name_or_path == str(EMBEDDED_MODEL) else model.name_or_path or IN_MEMORY


def _data_name(data: Any) -> str:
    return str(data) if isinstance(data, str | Path) else IN_MEMORY


def _object(given: Any) -> Any:
    """A model or data in memory; None if a name was given."""
    return None if isinstance(given, str | Path) else given


def _plain(recipe: "Settings | None") -> Path | str | Mapping[str, Any] | None:
    return recipe.model_dump(mode="json", exclude_unset=True) if isinstance(recipe, Recipe) else recipe
