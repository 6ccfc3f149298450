"""Callbacks of a training: scalars and pictures for the loggers, the progress bar, and checkpoints."""

from collections.abc import Callable

import numpy as np
from rich.progress import Progress, TaskID
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Image, TensorBoardOutputFormat

from rltr.envs.episodes import Outcome
from rltr.report.gallery import Patches, dim
from rltr.tasks import Examples
from rltr.train.token_ppo import TokenPPO
from rltr.train.trackers import Tracker


class Watch(BaseCallback):
    """Callback that logs scalars and pictures of every finished batch of episodes.

    ``rltr/accuracy`` (named after the task's metric) is that of the sampled, not the deterministic, policy on training
    inputs at random cost weights, and ``rltr/dense_accuracy`` that of the dense model. ``rltr/cost`` is in dense passes
    of a typical input. ``rltr/score`` and ``rltr/price`` are the two parts of the reward. ``rltr/keep_rate/N`` is the
    share of tokens kept by the decision before layer N. ``rltr/kept/…`` are pictures of the kept tokens.

    Args:
        examples: the training examples.
        pictures_every: number of updates between two sets of pictures.
    """

    model: TokenPPO

    def __init__(self, examples: Examples, pictures_every: int = 25) -> None:
        super().__init__()
        self.examples = examples
        self.pictures_every = pictures_every
        self._updates = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        outcome = self.model.episodes.outcome
        assert outcome is not None
        record = self.logger.record
        record("rltr/rollouts", self.num_timesteps // self.model.episodes.steps)
        name = self.examples.goal.quality_name.replace(" ", "_")
        record(f"rltr/{name}", float(outcome.quality.mean()))
        record(f"rltr/dense_{name}", float(outcome.dense_quality.mean()))
        record("rltr/cost", float(outcome.cost.mean()))
        record("rltr/score", float(outcome.score.mean()))
        record("rltr/price", float((outcome.score - outcome.reward).mean()))
        counts = [sum(stage.counts) for stage in outcome.trace.stages]
        for layer, before, after in zip(outcome.trace.layers, counts[:-1], counts[1:], strict=True):
            record(f"rltr/keep_rate/{layer}", after / before)
        if self._updates % self.pictures_every == 0 and self._takes_pictures():
            self._show(outcome)
        self._updates += 1

    def _takes_pictures(self) -> bool:
        return any(isinstance(output, TensorBoardOutputFormat | Tracker) for output in self.logger.output_formats)

    def _show(self, outcome: Outcome) -> None:
        patches = Patches.of(self.model.episodes.backbone.config, outcome.trace.grid)
        for row in range(0, len(outcome.index), self.model.episodes.group_size)[:4]:
            picture = self.examples.picture(int(outcome.index[row]))
            if picture is None:
                continue
            stages = ["".join("01"[kept] for kept in stage.tolist()) for stage in outcome.trace.present[:, row]]
            strip = np.concatenate([np.asarray(dim(picture, stage, patches)) for stage in stages], axis=1)
            self.logger.record(f"rltr/kept/{row}", Image(strip, "HWC"), exclude=("csv", "stdout"))


class Bar(BaseCallback):
    """Callback that advances a progress bar after every batch of rollouts.

    It replaces stable-baselines3's ``ProgressBarCallback``, whose thread survives an error in training and then adds a
    second traceback.

    Args:
        progress: the rich display. The caller starts and stops it.
        task: the bar in it to advance.
    """

    model: TokenPPO

    def __init__(self, progress: Progress, task: TaskID) -> None:
        super().__init__()
        self.progress = progress
        self.task = task

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.progress.update(self.task, completed=self.num_timesteps // self.model.episodes.steps)


class Checkpoints(BaseCallback):
    """Callback that calls ``save`` after every ``every`` updates and at the end of training.

    Args:
        save: writes a checkpoint.
        every: number of updates between two checkpoints.
    """

    def __init__(self, save: Callable[[], None], every: int) -> None:
        super().__init__()
        self.save = save
        self.every = every
        self._rollouts = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._rollouts and self._rollouts % self.every == 0:
            self.save()
        self._rollouts += 1

    def _on_training_end(self) -> None:
        self.save()
