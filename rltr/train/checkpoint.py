"""Checkpoints from which training goes on as if it had never stopped: tensors in safetensors, the rest in JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rltr.errors import RltrError
from rltr.files import atomic_folder
from rltr.tensor_files import save_file
from rltr.train.advantages import RunningDeviation
from rltr.train.token_ppo import TokenPPO
from rltr.version import __version__

TENSORS = "state.safetensors"
FACTS = "state.json"
FIELDS = {"version", "timesteps", "updates", "deviation", "sampler", "extra"}
"""What the JSON file holds."""


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
    optimizer = learner.policy.optimizer.state_dict()
    tensors: dict[str, Tensor] = {f"policy.{name}": value for name, value in learner.policy.state_dict().items()}
    for index, state in optimizer["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    # What the dense model said depends, in its last bit, on which inputs were asked about together.
    dense = learner.episodes.dense
    tensors |= {"dense.known": dense.known, "dense.logits": dense.logits[dense.known]}
    if learner.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(learner.device)
    facts = {
        "version": __version__,
        "timesteps": learner.num_timesteps,
        "updates": learner._n_updates,
        "deviation": asdict(learner.deviation),
        "sampler": learner.episodes.random_state(),
        "extra": dict(extra or {}),
    }
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / TENSORS)
        (temporary / FACTS).write_text(json.dumps(facts, indent=1))


def read_facts(folder: Path) -> dict[str, Any]:
    """What a checkpoint says beside its tensors.

    Raises:
        RltrError: if there is no checkpoint, or a damaged one.
    """
    if not (folder / FACTS).is_file() or not (folder / TENSORS).is_file():
        raise RltrError(f"there is no checkpoint in {folder}: start without --resume, or name the folder of a run")
    try:
        facts = json.loads((folder / FACTS).read_text())
    except ValueError as error:  # no JSON, or no text
        raise _damaged(folder, str(error)) from error
    if not isinstance(facts, dict) or not facts.keys() >= FIELDS:
        raise _damaged(folder, f"{FACTS} lacks some of {', '.join(sorted(FIELDS))}")
    return facts


def _damaged(folder: Path, reason: str) -> RltrError:
    return RltrError(f"the checkpoint in {folder} is damaged ({reason}): start the training again")


def restore_checkpoint(folder: Path, learner: TokenPPO) -> None:
    """Put a learner that was made like the saved one into the saved state.

    Raises:
        RltrError: if there is no checkpoint, it is damaged, or it is of another policy or another batch.
    """
    facts = read_facts(folder)
    try:
        tensors = load_file(folder / TENSORS)
    except SafetensorError as error:
        raise _damaged(folder, str(error)) from error
    if missing := {"random.cpu", "dense.known", "dense.logits"} - tensors.keys():
        raise _damaged(folder, f"{TENSORS} lacks {', '.join(sorted(missing))}")
    dense, known = learner.episodes.dense, tensors["dense.known"]
    if known.shape != dense.known.shape or tensors["dense.logits"].shape[1:] != dense.logits.shape[1:]:
        raise RltrError(
            f"the checkpoint in {folder} was made with {len(known)} training examples, but now there are "
            f"{len(dense.known)}, or other classes: go on with the data it began with"
        )

    deviation = facts["deviation"]
    numbers = {field.name for field in fields(RunningDeviation)}
    if not isinstance(deviation, dict) or {name for name, n in deviation.items() if isinstance(n, float)} != numbers:
        raise _damaged(folder, f"the deviation of scores must be {', '.join(sorted(numbers))}, not {deviation}")

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    _restore_sampler(folder, facts["sampler"], learner)
    try:
        learner.policy.load_state_dict(under("policy."))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise RltrError(f"the checkpoint in {folder} is of another policy: {reason}") from error
    optimizer = learner.policy.optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in under("optimizer.").items():
        index, part = name.split(".")
        state.setdefault(int(index), {})[part] = value
    learner.policy.optimizer.load_state_dict({**optimizer, "state": state})
    dense.known.copy_(known)
    dense.logits[known] = tensors["dense.logits"]
    learner.num_timesteps = facts["timesteps"]
    learner._n_updates = facts["updates"]
    learner.deviation = RunningDeviation(**deviation)
    env = learner.get_env()
    assert env is not None
    env._reset_seeds()  # SB3 left the learner's seed there for the next reset, which would replay the first episodes
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and learner.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], learner.device)


def _restore_sampler(folder: Path, state: Any, learner: TokenPPO) -> None:
    groups = learner.episodes.rows // learner.episodes.group_size
    if isinstance(state, list) and len(state) != groups:
        raise RltrError(
            f"the checkpoint in {folder} was made with {len(state)} groups of rollouts per update, but this training "
            f"has {groups}: go on with the same learner.batch and learner.group_size"
        )
    try:
        learner.episodes.set_random_state(state)
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # whatever numpy says to something else
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise _damaged(folder, f"the state of the sampler cannot be used, {reason}") from error
