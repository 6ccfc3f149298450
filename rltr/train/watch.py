"""What training tells while it runs: scalars and pictures for TensorBoard and progress.csv, and checkpoints."""

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
    """Logs every finished batch of episodes.

    ``rltr/accuracy`` (or what the task's quality is called) of the sampled (not the deterministic) policy on training
    inputs at random cost weights and ``rltr/dense_accuracy`` of the whole model, ``rltr/cost`` in dense passes of a
    typical input, ``rltr/score`` and ``rltr/price`` the two parts of the reward, ``rltr/keep_rate/N`` the share of
    tokens that stayed at each decision, and ``rltr/kept/…`` pictures.

    Args:
        examples: where its inputs come from.
        pictures_every: updates between two sets of pictures.
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
    """Moves a bar on by every rollout that ended.

    Not stable-baselines3's own, whose thread outlives an error in training, and adds a traceback of its own to it.

    Args:
        progress: the bars shown; whoever began to show them ends it.
        task: which of them to move.
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
    """Calls ``save`` every so many updates, between two updates, and once at the end.

    Args:
        save: writes a checkpoint.
        every: updates between two checkpoints.
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
