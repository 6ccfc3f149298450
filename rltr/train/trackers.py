"""Loggers of a training: the formats of stable-baselines3's logger, and experiment trackers.

To add a tracker whose module has wandb's interface (``init``, ``log``, ``Image`` and ``finish``), add its name to
:data:`TRACKERS` and to ``Recipe.report_to``.
"""

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Image, KVWriter, Logger, configure

from rltr.errors import RltrError

TRACKERS = ("trackio", "wandb")
"""Supported tracker packages; none is a dependency of rltr."""
PROJECT = "rltr"
"""Default project; ``TRACKIO_PROJECT`` and ``WANDB_PROJECT`` override it, as in transformers."""


def refuse_missing(report_to: Sequence[str]) -> None:
    """Check that the trackers in ``report_to`` are installed, before any time is spent on measuring.

    Raises:
        RltrError: if one is missing, with the command that installs it.
    """
    missing = [name for name in report_to if name in TRACKERS and importlib.util.find_spec(name) is None]
    if missing:
        raise RltrError(
            f"report_to names {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"`pip install {' '.join(missing)}`, or leave it out of report_to"
        )


def training_logger(folder: Path, report_to: Sequence[str], name: str, settings: Mapping[str, Any]) -> Logger:
    """Make a logger for ``progress.csv``, which the report reads, and for everything in ``report_to``.

    Args:
        folder: folder of ``progress.csv`` and TensorBoard's events.
        report_to: ``tensorboard`` and names in :data:`TRACKERS`.
        name: name of the run in trackers.
        settings: the recipe, as the configuration of the run in trackers.

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
    """Output format that sends the scalars and pictures of every update to a tracker.

    Args:
        package: a name in :data:`TRACKERS`.
        name: name of the run.
        settings: configuration of the run.
    """

    def __init__(self, package: str, name: str, settings: Mapping[str, Any]) -> None:
        self.package = package
        self.module = importlib.import_module(package)
        project = os.environ.get(f"{package.upper()}_PROJECT", PROJECT)
        try:
            self.run = self.module.init(project=project, name=name, config=dict(settings))
        except Exception as error:  # any type: no account, no network, a wrong setting of the tracker
            raise RltrError(
                f"report_to: {package} does not start ({error}); fix that, or leave {package} out of report_to"
            ) from error

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Send the numbers and pictures of one update, without those that exclude this tracker."""
        sent: dict[str, Any] = {}
        for key, value in key_values.items():
            if self.package in (key_excluded.get(key) or ()):
                continue
            if isinstance(value, Image):
                sent[key] = self.module.Image(value.image)
            elif isinstance(value, Real):  # numpy's numbers, too
                sent[key] = float(value)
        self.run.log(sent, step=step)

    def close(self) -> None:
        """End the tracker's run after sending everything that is pending."""
        self.run.finish()
