"""The command ``rltr``: reads what the user wants, refuses early what cannot work, and hands a recipe to a job.

Everything heavy (torch, transformers, the jobs) is imported inside the commands, so ``rltr --help`` answers at once.
"""

import os
import shlex
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rltr.errors import RltrError
from rltr.system.files import NO_ROOM, at_home, from_here
from rltr.system.folders import DEMO_FILE, EVALUATION_FILE, POLICY_FILE, POLICY_FOLDER, RECIPE_FILE, check_out
from rltr.system.interruption import exit_code, listen
from rltr.system.memory import keep_freed_memory
from rltr.system.reading import LARGEST_CONFIG, read_regular, strict_json
from rltr.version import __version__

if TYPE_CHECKING:
    import rltr.recipe


class Commands(TyperGroup):
    """Turns what a user can mend into one line and exit code 2, an interruption into 130, or 143 if it was SIGTERM.

    Bugs keep their traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except RltrError as error:
            if os.environ.get("RLTR_DEBUG") == "1":
                raise
            typer.echo(f"rltr: error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            # Writing to a file that is open, such as a log, does not say which one it was.
            if os.environ.get("RLTR_DEBUG") == "1" or not (error.filename or _no_room(error)):
                raise
            where = error.filename or "the results cannot be written"
            typer.echo(f"rltr: error: {where}: {error.strerror}; is there room, and may you write?", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            with suppress(OSError):  # of a terminal that was closed
                typer.echo(f"rltr: interrupted{''.join(map(str, stop.args))}", err=True)
            raise typer.Exit(exit_code(stop)) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Folder with a saved model, hub id, or 'embedded'.", show_default=False),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        help="Folder with one folder of images or sounds per class; CSV or JSONL of texts; Parquet, Arrow or .npz; "
        "owner/name on the hub; or 'embedded'. Without labels (data.labels=none) also .txt, or any folder.",
        show_default=False,
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.", show_default=False)]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help="YAML file, or 'demo' or 'quick'.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Change one field: learner.rollouts=10000. May be repeated.", show_default=False),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of the learner.", show_default=False)]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, or auto for the first accelerator.", show_default=False),
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Processor threads.", show_default=False)]


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"rltr {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Make a frozen transformer cheaper: learn which tokens it needs, and run it on those.

    \b
    First look:      rltr demo --quick
    Your own model:  rltr train --model my-vit --data photos --out runs/photos
    Its curve:       rltr evaluate --policy runs/photos/policy
    Every setting:   rltr recipe
    """


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="One minute instead of eight: far fewer rollouts.")] = False,
    out: OutOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    changes: SetOption = None,
) -> None:
    """Train, measure and export a policy on the built-in example.

    Writes a report (report.html), the measurements and the policy to --out (default: rltr-demo), in place of an earlier
    demo's. Needs no network.

    \b
    Examples:
      rltr demo --quick
      rltr demo --out my-demo --seed 1
    """
    from rltr.recipe import load_recipe

    values = _values({"out": out, "learner.seed": seed, "device": device, "threads": threads})
    recipe = load_recipe("quick" if quick else "demo", changes or (), values)
    check_out(recipe.out, marker=DEMO_FILE, replace=True)
    _refuse_early(recipe)
    from rltr.jobs.runs import run_demo

    run_demo(recipe, quick)


@app.command()
def train(
    model: ModelOption = None,
    data: DataOption = None,
    out: OutOption = None,
    recipe_file: RecipeOption = None,
    changes: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, with its own recipe.")] = False,
    seed: SeedOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Train a policy for a frozen model on your data.

    \b
    Examples:
      rltr train --model my-vit --data photos --out runs/photos
      rltr train --model my-bert --data reviews.csv --set data.label_column=stars
      rltr train --model my-bert --data owner/reviews --set data.test_split=validation
      rltr train --recipe my.yaml --set learner.rollouts=20000
      rltr train --resume --out runs/photos
    """
    from rltr.recipe import EMBEDDED, load_recipe

    chosen = {"model.source": model, "data.source": data, "learner.seed": seed}
    values = _values({**chosen, "out": out, "device": device, "threads": threads})
    if resume:
        # What was trained so far belongs to the recipe it was trained with; only where it runs and how long may change.
        # Model and data may have been moved: their contents are compared with what it began with.
        if recipe_file or "learner.seed" in values:
            raise RltrError(
                f"--resume takes the run's own recipe; leave out {'--recipe' if recipe_file else 'learner.seed'}"
            )
        folder = load_recipe(values=_values({"out": out})).out
        check_out(folder, resume=True)
        recipe = load_recipe(folder / RECIPE_FILE, changes or (), {**values, "out": folder})
        _refuse_moved(recipe)
    else:
        recipe = load_recipe(recipe_file, changes or (), values)
        if recipe.model.source != EMBEDDED and "source" not in recipe.data.model_fields_set:
            raise RltrError(f"which data is model {recipe.model.source!r} for? Name it with --data")
        check_out(recipe.out)
    _refuse_early(recipe)
    from rltr.jobs.runs import run_train

    try:
        folder = run_train(recipe, resume)
    except KeyboardInterrupt as stop:
        begun = (recipe.out / RECIPE_FILE).is_file()
        hint = f"; go on from the last checkpoint with: rltr train --resume --out {shlex.quote(str(recipe.out))}"
        stop.args = (hint if begun else " before anything was written",)
        raise
    typer.echo(f"trained; next: rltr export --run {shlex.quote(str(folder))} --out my-policy")


@app.command()
def evaluate(
    policy: Annotated[Path, typer.Option("--policy", "-p", help="A policy's folder.", show_default=False)],
    model: ModelOption = None,
    data: DataOption = None,
    out: OutOption = None,
    recipe_file: RecipeOption = None,
    changes: SetOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure a policy beside the baselines, with a report.

    Accuracy, FLOPs, latency and pictures go to --out (default: runs/evaluation), in place of an earlier evaluation's.
    Model and data are those it was trained with, unless you name others.

    \b
    Examples:
      rltr evaluate --policy my-policy --out measured
      rltr evaluate --policy my-policy --data other-photos --set evaluation.cost_weights=[0.1,0.5]
    """
    from rltr.recipe import load_recipe, stored_recipe

    policy = at_home(policy)
    config = _policy_config(policy)
    trained = None if recipe_file else stored_recipe(config.get("recipe"), str(policy)).model_dump(mode="json")
    values = _values({"model.source": model, "data.source": data, "device": device, "threads": threads})
    recipe = load_recipe(recipe_file or trained, changes or (), {**values, "out": out or Path("runs/evaluation")})
    check_out(recipe.out, marker=EVALUATION_FILE, replace=True)
    _refuse_early(recipe)
    from rltr.jobs.runs import run_evaluate

    run_evaluate(policy, recipe)


@app.command()
def export(
    run: Annotated[Path, typer.Option("--run", help="The folder of a training run.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the policy.", show_default=False)],
) -> None:
    """Write a run's policy to a folder that rltr.attach reads.

    \b
    Example:
      rltr export --run runs/photos --out my-policy
    """
    run, out = at_home(run), at_home(out)
    if not (run / RECIPE_FILE).is_file():
        raise RltrError(
            f"--run {str(run)!r} holds no run ({RECIPE_FILE} is not there); name a folder that train wrote to"
        )
    check_out(out, marker=POLICY_FILE, replace=True)
    from rltr.jobs.runs import run_export

    run_export(run, out)
    typer.echo(f"exported; next: rltr check {shlex.quote(str(out))}")


@app.command()
def check(
    target: Annotated[
        str, typer.Argument(help="A policy's folder, or a model's folder or hub id.", show_default=False)
    ],
    model: ModelOption = None,
    data: DataOption = None,
    tower: Annotated[
        str | None, typer.Option(help="Part of the model that is reduced, e.g. vision_model.", show_default=False)
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Check a policy, or a model, on this machine: exactness and real speed.

    A policy: with everything kept, the outputs must be the native ones; it is timed beside the native model, and must
    not lose surely more than its calibration promised. Where the data it was trained on is not at hand, random inputs
    do for all but that. A model: can rltr run it with fewer tokens, and exactly? Exit code 1 if anything is not exact
    or a promise is broken, 2 if the model is refused, with the reason.

    \b
    Examples:
      rltr check my-policy
      rltr check my-policy --model my-vit --data photos --threads 1
      rltr check google/vit-base-patch16-224
      rltr check my-clip --tower vision_model
    """
    from rltr.recipe import EMBEDDED

    if target == EMBEDDED or _is_model(at_home(Path(target))):
        if model or data:
            raise RltrError(f"--model and --data go with a policy's folder, and {target!r} is none")
        from rltr.jobs.check import run_model_check

        if not run_model_check(target, tower, device or "auto", threads):
            typer.echo("rltr: check failed: this model is not exact with fewer tokens on this machine", err=True)
            raise typer.Exit(1)
        return
    policy = at_home(Path(target))
    if tower:
        raise RltrError("--tower goes with a model: a policy knows which part of its model is reduced")
    _policy_config(policy)
    values = _values({"model.source": model, "data.source": data, "device": device, "threads": threads})
    from rltr.jobs.check import run_check

    if not run_check(policy, values):
        typer.echo("rltr: check failed: do not use this policy here; the last lines above say why", err=True)
        raise typer.Exit(1)


@app.command("calibrate")
def calibrate_policy(
    policy: Annotated[Path, typer.Argument(help="A policy's folder.", show_default=False)],
    out: OutOption = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the policy by the calibrated one.")] = False,
    model: ModelOption = None,
    data: DataOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure a policy's prices and what it keeps anew: on this machine, or on data of yours.

    Its budgets are then shares of this machine's time. The network stays what it is; the folder is written whole or not
    at all. Takes about a minute; a machine that is too busy to measure on is refused.

    \b
    Examples:
      rltr calibrate my-policy --out my-policy-here
      rltr calibrate my-policy --in-place --threads 1
      rltr calibrate my-policy --out for-my-data --data other-photos
    """
    policy = at_home(policy)
    _policy_config(policy)
    if (out is None) != in_place:
        raise RltrError("name the folder for the calibrated policy with --out, or give --in-place to replace this one")
    target = policy if out is None else at_home(out)
    check_out(target, marker=POLICY_FILE, replace=True)
    values = _values({"model.source": model, "data.source": data, "device": device, "threads": threads})
    from rltr.jobs.calibrate import run_calibrate

    run_calibrate(policy, target, values)
    typer.echo(f"calibrated; next: rltr check {shlex.quote(str(target))}")


@app.command("recipe")
def show_recipe(
    recipe_file: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="YAML file, or 'demo' or 'quick'.", show_default=False)
    ] = None,
    changes: SetOption = None,
) -> None:
    """Print every setting, with what it means and may be.

    \b
    Examples:
      rltr recipe > my.yaml
      rltr recipe demo --set learner.rollouts=10000
    """
    from rltr.recipe import load_recipe, recipe_text

    typer.echo(recipe_text(load_recipe(recipe_file, changes or ())), nl=False)


def main() -> None:
    """Run the command line; the entry point of ``rltr``."""
    if hasattr(sys.stdout, "reconfigure"):
        # A terminal without UTF-8 must not end hours of work at an accent in a class's name.
        sys.stdout.reconfigure(errors="replace")
    threading.excepthook = _tell_of_thread
    listen()
    keep_freed_memory()  # the process is ours, and what it measures must not depend on when memory is given back
    app(prog_name="rltr")


def _no_room(error: OSError) -> bool:
    """Whether a disk is full; the module tempfile then finds no place to write to, and says so with another number."""
    return error.errno in NO_ROOM or "No usable temporary directory" in str(error)


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """A full disk in a thread (TensorBoard writes in one) is a line as well; the thread that is waiting for it ends."""
    if isinstance(failed.exc_value, OSError) and _no_room(failed.exc_value):
        typer.echo(f"rltr: a log cannot be written: {failed.exc_value.strerror}", err=True)
    else:
        threading.__excepthook__(failed)


def _values(options: dict[str, Any]) -> dict[str, object]:
    """The options that were given, by the recipe field they set."""
    return {key: value for key, value in options.items() if value is not None}


def _is_model(target: Path) -> bool:
    """Whether this is a saved model's folder, or can only be a hub id."""
    if not target.exists():
        return True
    # A policy's config says model_type as well, of its backbone; and what says neither was meant to be a policy.
    config = target / "config.json"
    # A model's config may name many thousands of classes.
    text = read_regular(config, 64 * LARGEST_CONFIG) if config.exists() else b""
    return b'"model_type"' in text and b'"backbone"' not in text


def _policy_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.exists():
        what = "there is no such folder" if not folder.exists() else "it holds no config.json"
        fix = "name one that demo, train or export wrote"
        if (folder / POLICY_FOLDER / "config.json").exists():
            fix = f"it is a run's, whose policy is {str(folder / POLICY_FOLDER)!r}"
        raise RltrError(f"{str(folder)!r} is not a policy's folder: {what}; {fix}")
    content = read_regular(file, LARGEST_CONFIG)
    try:
        config = strict_json(content)
    except ValueError as error:
        raise RltrError(f"{str(file)!r} is damaged ({error}); export the policy again") from None
    if not isinstance(config, dict):
        raise RltrError(f"{str(file)!r} is not a policy's: it holds no fields; export the policy again")
    return config


def _refuse_moved(recipe: "rltr.recipe.Recipe") -> None:
    """Say what to do where model or data of a run are no longer where they were when it began."""
    for what, source in (("model", recipe.model.source), ("data", recipe.data.source)):
        # What lies in a folder is stored with its whole path; everything else is a name.
        if Path(source).is_absolute() and not Path(source).exists():
            raise RltrError(
                f"this run's {what} is not at {source!r} any more: if it was moved, name its new place with --{what}; "
                "it is compared with what the run began with by content"
            )


def _refuse_early(recipe: "rltr.recipe.Recipe") -> None:
    """Raise `RltrError` for what is certain to fail later: before a model is loaded, and before anything is written."""
    from rltr.recipe import EMBEDDED, is_hub_name

    data = recipe.data.source
    if data != EMBEDDED and not is_hub_name(data) and not at_home(data).exists():
        raise RltrError(f"there is no data at {from_here(data)}; name an existing folder or file with --data")
    from rltr.system.device import pick_device

    pick_device(recipe.device)
