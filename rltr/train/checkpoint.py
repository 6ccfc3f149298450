"""Checkpoints from which training goes on as if it had never stopped: tensors in safetensors, the rest in JSON.

A checkpoint is used as it was written or not at all: every name, shape, type and number is checked before the learner
is touched, and both files carry digests, so that no damage becomes another policy.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rltr.errors import RltrError
from rltr.system import former_names
from rltr.system.files import atomic_folder
from rltr.system.former_names import present_names, refuse_present
from rltr.system.tensor_files import save_file
from rltr.train.advantages import RunningDeviation
from rltr.train.checkpoint_facts import (
    FACTS,
    RENAMED,
    TENSORS,
    check_facts,
    damaged,
    file_digest,
    read_facts,
    write_facts,
)
from rltr.train.token_ppo import TokenPPO

__all__ = ["FACTS", "TENSORS", "read_facts", "restore_checkpoint", "save_checkpoint"]


def save_checkpoint(folder: Path, learner: TokenPPO, extra: Mapping[str, Any] | None = None) -> None:
    """Save weights, optimiser, random generators, the data sampler, dense answers and counters, between two updates.

    Args:
        folder: replaced as a whole once the new checkpoint is complete.
        learner: the learner, with the next batch of episodes drawn but not begun.
        extra: anything else to keep, as plain data.

    Raises:
        RltrError: if no episode was ever drawn: there is nothing to go on with.
    """
    if not learner.episodes.random_state():
        raise RltrError("this learner has not begun, so there is nothing to go on with: call learn() before you save")
    tensors: dict[str, Tensor] = {f"policy.{name}": value for name, value in learner.policy.state_dict().items()}
    for index, state in learner.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    # What the dense model said depends, in its last bit, on which inputs were asked about together.
    dense = learner.episodes.dense
    tensors |= {"dense.known": dense.known, "dense.answers": dense.answers[dense.known]}
    if learner.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(learner.device)
    facts = {
        "timesteps": learner.num_timesteps,
        "updates": learner._n_updates,
        "deviation": asdict(learner.deviation),
        "sampler": learner.episodes.random_state(),
        "extra": dict(extra or {}),
    }
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / TENSORS)
        write_facts(temporary, facts)


def restore_checkpoint(folder: Path, learner: TokenPPO) -> None:
    """Put a learner that was made like the saved one into the saved state.

    Raises:
        RltrError: if there is no checkpoint, it is damaged, or it is of another policy or another batch. The learner is
            as it was then.
    """
    facts = read_facts(folder)
    groups = learner.episodes.rows // learner.episodes.group_size
    if len(facts["sampler"]) != groups:
        raise RltrError(
            f"the checkpoint in {folder} was made with {len(facts['sampler'])} groups of rollouts per update, but this "
            f"training has {groups}: go on with the same learner.batch and learner.group_size"
        )
    check_facts(folder, facts)
    if file_digest(folder / TENSORS) != facts["tensors"]:
        raise damaged(folder, f"{TENSORS} is not the file that was written with {FACTS}")
    try:
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, ValueError, KeyError) as error:  # a type that this torch lacks is a KeyError
        raise damaged(folder, str(error)) from error
    if facts["format"] < RENAMED:
        refuse_present(tensors, former_names.CHECKPOINT, f"the checkpoint in {folder}")
        tensors = present_names(tensors, former_names.CHECKPOINT, f"the checkpoint in {folder}")
    _check_data(folder, tensors, learner)
    _check_policy(folder, tensors, learner)
    _check_optimizer(folder, tensors, learner, facts["updates"])
    if facts["timesteps"] % (learner.n_steps * learner.n_envs):
        raise damaged(folder, f"{facts['timesteps']} timesteps are no whole updates")
    _check_random(folder, tensors, learner)
    # Nothing below can fail.
    optimizer = learner.policy.optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer.").items():
        index, part = name.split(".")
        state.setdefault(int(index), {})[part] = value
    learner.policy.load_state_dict(_under(tensors, "policy."))
    learner.policy.optimizer.load_state_dict({**optimizer, "state": state})
    dense = learner.episodes.dense
    dense.known.copy_(tensors["dense.known"])
    dense.answers[dense.known] = tensors["dense.answers"]
    learner.episodes.set_random_state(facts["sampler"])
    learner.num_timesteps = facts["timesteps"]
    learner._n_updates = facts["updates"]
    learner.deviation = RunningDeviation(**facts["deviation"])
    env = learner.get_env()
    assert env is not None
    env._reset_seeds()  # SB3 left the learner's seed there for the next reset, which would replay the first episodes
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and learner.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], learner.device)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check_data(folder: Path, tensors: Mapping[str, Tensor], learner: TokenPPO) -> None:
    """Refuse dense answers to other examples, or of another shape."""
    if missing := {"random.cpu", "dense.known", "dense.answers"} - tensors.keys():
        raise damaged(folder, f"{TENSORS} lacks {', '.join(sorted(missing))}")
    dense, known, answers = learner.episodes.dense, tensors["dense.known"], tensors["dense.answers"]
    if known.shape != dense.known.shape or answers.shape[1:] != dense.answers.shape[1:]:
        raise RltrError(
            f"the checkpoint in {folder} was made with {len(known)} training examples, but now there are "
            f"{len(dense.known)}, or other classes: go on with the data it began with"
        )
    if known.dtype != torch.bool or answers.dtype != dense.answers.dtype:
        raise damaged(folder, f"dense answers are {answers.dtype}, and {known.dtype} says which are known")
    if len(answers) != int(known.sum()) or not bool(answers.isfinite().all()):
        raise damaged(
            folder, f"there are {len(answers)} dense answers to {int(known.sum())} examples, or not all finite"
        )


def _check_policy(folder: Path, tensors: Mapping[str, Tensor], learner: TokenPPO) -> None:
    """Refuse weights of another policy, and those that are no numbers."""
    wanted, found = learner.policy.state_dict(), _under(tensors, "policy.")
    differing = [
        name
        for name in sorted(wanted.keys() | found.keys())
        if name not in wanted or name not in found or found[name].shape != wanted[name].shape
    ]
    if differing:
        raise RltrError(
            f"the checkpoint in {folder} is of another policy: {', '.join(differing[:5])} differ in name or shape. Go "
            "on with the recipe it began with"
        )
    for name, value in found.items():
        if value.dtype != wanted[name].dtype or not bool(value.isfinite().all()):
            raise damaged(folder, f"policy.{name} is {value.dtype}, or not all finite")


def _check_optimizer(folder: Path, tensors: Mapping[str, Tensor], learner: TokenPPO, updates: int) -> None:
    """Refuse an optimiser's memory that is not of this policy: all of it after an update, and nothing before."""
    parameters = [parameter for group in learner.policy.optimizer.param_groups for parameter in group["params"]]
    wanted: dict[str, torch.Size] = {}
    for i, parameter in enumerate(parameters if updates else ()):
        wanted |= {f"{i}.step": torch.Size(), f"{i}.exp_avg": parameter.shape, f"{i}.exp_avg_sq": parameter.shape}
    found = _under(tensors, "optimizer.")
    if wrong := sorted(wanted.keys() ^ found.keys()):
        raise damaged(folder, f"the optimiser's memory lacks, or has without need, {', '.join(wrong[:5])}")
    for name, value in found.items():
        if value.shape != wanted[name] or value.dtype != torch.float32 or not bool(value.isfinite().all()):
            raise damaged(folder, f"optimizer.{name} has another shape or type, or is not all finite")
        if not name.endswith("exp_avg") and bool((value < 0).any()):
            raise damaged(folder, f"optimizer.{name} is negative")


def _check_random(folder: Path, tensors: Mapping[str, Tensor], learner: TokenPPO) -> None:
    """Refuse states that the random generators would refuse."""
    others = tensors.keys() - {"random.cpu", "random.cuda", "dense.known", "dense.answers"}
    if unknown := sorted(name for name in others if not name.startswith(("policy.", "optimizer."))):
        raise damaged(folder, f"{TENSORS} has without need {', '.join(unknown[:5])}")
    try:
        torch.Generator().set_state(tensors["random.cpu"])
        if "random.cuda" in tensors and learner.device.type == "cuda":
            torch.Generator(learner.device).set_state(tensors["random.cuda"])
    except (RuntimeError, TypeError) as error:
        raise damaged(folder, f"the state of a random generator cannot be used, {error}") from error
