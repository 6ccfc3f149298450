"""Where a training is logged: the formats of stable-baselines3's logger, and trackers beside them.

To add a tracker whose module has ``init``, ``log``, ``Image`` and ``finish`` as wandb's has, add its name to
:data:`TRACKERS`, and to ``Recipe.report_to``.
"""

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Image, KVWriter, Logger, configure

from rltr.errors import RltrError

TRACKERS = ("trackio", "wandb")
"""Packages that keep runs; none is installed with rltr."""
PROJECT = "rltr"
"""Project of the runs, unless ``TRACKIO_PROJECT`` or ``WANDB_PROJECT`` names another, as in transformers."""


def refuse_missing(report_to: Sequence[str]) -> None:
    """Refuse trackers that are not installed, before anything is measured.

    Raises:
        RltrError: with the command that installs them.
    """
    missing = [name for name in report_to if name in TRACKERS and importlib.util.find_spec(name) is None]
    if missing:
        raise RltrError(
            f"report_to names {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"`pip install {' '.join(missing)}`, or leave it out of report_to"
        )


def training_logger(folder: Path, report_to: Sequence[str], name: str, settings: Mapping[str, Any]) -> Logger:
    """A logger that writes ``progress.csv``, which the report reads, and to everything that ``report_to`` names.

    Args:
        folder: for ``progress.csv`` and TensorBoard's events.
        report_to: ``tensorboard``, and names in :data:`TRACKERS`.
        name: of the run, for trackers.
        settings: the recipe, for trackers.

    Raises:
        RltrError: if a tracker does not start.
    """
    logger = configure(str(folder), ["csv", *(name for name in report_to if name == "tensorboard")])
    try:
        for tracker in report_to:
            if tracker in TRACKERS:
                logger.output_formats.append(Tracker(tracker, name, settings))
    except BaseException:
        logger.close()
        raise
    return logger


class Tracker(KVWriter):
    """Sends every scalar and picture of an update to a tracker.

    Args:
        package: a name in :data:`TRACKERS`.
        name: of the run.
        settings: what it shows as the run's configuration.
    """

    def __init__(self, package: str, name: str, settings: Mapping[str, Any]) -> None:
        self.package = package
        self.module = importlib.import_module(package)
        project = os.environ.get(f"{package.upper()}_PROJECT", PROJECT)
        try:
            self.run = self.module.init(project=project, name=name, config=dict(settings))
        except Exception as error:  # whatever it raises: a missing account, no network, a setting of its own
            raise RltrError(
                f"report_to: {package} does not start ({error}); mend that, or leave {package} out of report_to"
            ) from error

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Send what one update logged; what is no number or picture, or excluded for this tracker, is left out."""
        sent: dict[str, Any] = {}
        for key, value in key_values.items():
            if self.package in (key_excluded.get(key) or ()):
                continue
            if isinstance(value, Image):
                sent[key] = self.module.Image(value.image)
            elif isinstance(value, int | float):
                sent[key] = value
        self.run.log(sent, step=step)

    def close(self) -> None:
        """End the tracker's run: what is still on its way is sent."""
        self.run.finish()
