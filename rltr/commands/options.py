"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Folder with a saved model, hub id, or 'embedded'.", show_default=False),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        help="Folder with one subfolder of images or sounds per class; CSV or JSONL of texts; Parquet, Arrow or .npz; "
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


def given(options: dict[str, Any]) -> dict[str, object]:
    """The options that are not None, by the recipe field they set."""
    return {key: value for key, value in options.items() if value is not None}
