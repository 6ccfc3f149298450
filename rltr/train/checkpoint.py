"""Checkpoints that resume training exactly, bit for bit: tensors in safetensors, everything else in JSON.

A checkpoint is restored exactly as it was written, or refused. Every name, shape, type and value is checked before the
learner changes, and both files carry digests, so a damaged checkpoint never loads as a different policy.
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
    """Save the state of a training between two updates.

    It consists of weights, optimiser state, random generators, data sampler, dense answers and counters.

    Args:
        folder: replaced as a whole once the new checkpoint is complete.
        learner: the learner; the next batch of episodes has been drawn, but no step of it was taken.
        extra: further data to store, as JSON types.

    Raises:
        RltrError: if no episode has been drawn yet, so there is no state to resume from.
    """
    if not learner.episodes.random_state():
        raise RltrError("this learner has not been trained yet, so there is nothing to save: call learn() first")
    tensors: dict[str, Tensor] = {f"policy.{name}": value for name, value in learner.policy.state_dict().items()}
    for index, state in learner.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    # Saved, not recomputed: the last bits of an answer depend on which inputs shared its forward pass.
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
    """Restore a checkpoint into a learner that was constructed like the saved one.

    Raises:
        RltrError: if there is no checkpoint, if it is damaged, or if policy, data or batch differ from the saved ones.
            The learner is unchanged then.
    """
    facts = read_facts(folder)
    groups = learner.episodes.rows // learner.episodes.group_size
    if len(facts["sampler"]) != groups:
        raise RltrError(
            f"the checkpoint in {folder} was made with {len(facts['sampler'])} groups of rollouts per update, but this "
            f"training has {groups}: resume with the same learner.batch and learner.group_size"
        )
    check_facts(folder, facts)
    if file_digest(folder / TENSORS) != facts["tensors"]:
        raise damaged(folder, f"{TENSORS} is not the file that was written together with {FACTS}")
    try:
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: this torch lacks one of the dtypes
        raise damaged(folder, str(error)) from error
    if facts["format"] < RENAMED:
        refuse_present(tensors, former_names.CHECKPOINT, f"the checkpoint in {folder}")
        tensors = present_names(tensors, former_names.CHECKPOINT, f"the checkpoint in {folder}")
    _check_data(folder, tensors, learner)
    _check_policy(folder, tensors, learner)
    _check_optimizer(folder, tensors, learner, facts["updates"])
    if facts["timesteps"] % (learner.n_steps * learner.n_envs):
        raise damaged(folder, f"{facts['timesteps']} timesteps are not a whole number of updates")
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
    env._reset_seeds()  # SB3 kept the seed for the next reset(), which would replay the first episodes
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and learner.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], learner.device)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check_data(folder: Path, tensors: Mapping[str, Tensor], learner: TokenPPO) -> None:
    """Raise if the dense answers belong to other examples or have another shape."""
    if missing := {"random.cpu", "dense.known", "dense.answers"} - tensors.keys():
        raise damaged(folder, f"{TENSORS} lacks {', '.join(sorted(missing))}")
    dense, known, answers = learner.episodes.dense, tensors["dense.known"], tensors["dense.answers"]
    if known.shape != dense.known.shape or answers.shape[1:] != dense.answers.shape[1:]:
        raise RltrError(
            f"the checkpoint in {folder} was made with {len(known)} training examples, but now there are "
            f"{len(dense.known)}, or the classes differ: resume with the original data"
        )
    if known.dtype != torch.bool or answers.dtype != dense.answers.dtype:
        raise damaged(folder, f"dense answers have dtype {answers.dtype}, and the mask of known ones {known.dtype}")
    if len(answers) != int(known.sum()) or not bool(answers.isfinite().all()):
        raise damaged(folder, f"{len(answers)} dense answers for {int(known.sum())} examples, or some are not finite")


def _check_policy(folder: Path, tensors: Mapping[str, Tensor], learner: TokenPPO) -> None:
    """Raise if the weights belong to another policy or are not finite."""
    wanted, found = learner.policy.state_dict(), _under(tensors, "policy.")
    differing = [
        name
        for name in sorted(wanted.keys() | found.keys())
        if name not in wanted or name not in found or found[name].shape != wanted[name].shape
    ]
    if differing:
        raise RltrError(
            f"the checkpoint in {folder} belongs to another policy: {', '.join(differing[:5])} differ in name or "
            "shape. Resume with the original recipe"
        )
    for name, value in found.items():
        if value.dtype != wanted[name].dtype or not bool(value.isfinite().all()):
            raise damaged(folder, f"policy.{name} has dtype {value.dtype}, or values that are not finite")


def _check_optimizer(folder: Path, tensors: Mapping[str, Tensor], learner: TokenPPO, updates: int) -> None:
    """Raise if the optimiser state does not fit the policy. Before the first update it must be empty."""
    parameters = [parameter for group in learner.policy.optimizer.param_groups for parameter in group["params"]]
    wanted: dict[str, torch.Size] = {}
    for i, parameter in enumerate(parameters if updates else ()):
        wanted |= {f"{i}.step": torch.Size(), f"{i}.exp_avg": parameter.shape, f"{i}.exp_avg_sq": parameter.shape}
    found = _under(tensors, "optimizer.")
    if wrong := sorted(wanted.keys() ^ found.keys()):
        raise damaged(folder, f"missing or unexpected entries of the optimiser state: {', '.join(wrong[:5])}")
    for name, value in found.items():
        if value.shape != wanted[name] or value.dtype != torch.float32 or not bool(value.isfinite().all()):
            raise damaged(folder, f"optimizer.{name} has a wrong shape or dtype, or values that are not finite")
        if not name.endswith("exp_avg") and bool((value < 0).any()):
            raise damaged(folder, f"optimizer.{name} has negative values")


def _check_random(folder: Path, tensors: Mapping[str, Tensor], learner: TokenPPO) -> None:
    """Raise if a random generator would not accept its state, or if there are unexpected tensors."""
    others = tensors.keys() - {"random.cpu", "random.cuda", "dense.known", "dense.answers"}
    if unknown := sorted(name for name in others if not name.startswith(("policy.", "optimizer."))):
        raise damaged(folder, f"{TENSORS} has unexpected tensors: {', '.join(unknown[:5])}")
    try:
        torch.Generator().set_state(tensors["random.cpu"])
        if "random.cuda" in tensors and learner.device.type == "cuda":
            torch.Generator(learner.device).set_state(tensors["random.cuda"])
    except (RuntimeError, TypeError) as error:
        raise damaged(folder, f"the state of a random generator is not valid: {error}") from error
