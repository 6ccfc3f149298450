"""A policy's weights as bytes in safetensors, and back: nothing is allocated before shapes are seen to fit."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import load, save
from torch import Tensor, nn

from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.system.former_names import POLICY_WEIGHTS, present_names

LARGEST = 1e6
"""Far beyond any trained weight, and small enough that no logit of a policy overflows single precision."""
HEADER = 2**16
"""Bytes that names and shapes may take in the file."""


def to_bytes(network: TokenPolicy) -> bytes:
    """The weights of a policy.

    Raises:
        ValueError: if they are not sound (see :func:`check_sound`).
    """
    check_sound(network.state_dict())
    return save({name: value.detach().cpu().float().contiguous() for name, value in network.state_dict().items()})


def most_bytes(config: PolicyConfig) -> int:
    """Bytes that the weights of such a policy may take as a file."""
    return HEADER + 4 * sum(value.numel() for value in _outline(config).values())


def from_bytes(content: bytes, config: PolicyConfig, former: bool = False) -> TokenPolicy:
    """The policy that :func:`to_bytes` wrote, frozen, in evaluation mode.

    Args:
        content: the file.
        config: shape of the policy.
        former: whether tensors have their former names, which they had in policy folders before format 4.

    Raises:
        ValueError: if these are no weights of a policy of this shape, in single precision and sound.
    """
    try:
        described = dict(deserialize(content))
    except SafetensorError as error:
        raise ValueError(f"the weights cannot be read: {' '.join(str(error).split())}") from error
    names = {new: old for old, new in POLICY_WEIGHTS.items()} if former else {}
    outline = {names.get(name, name): value for name, value in _outline(config).items()}
    if described.keys() != outline.keys():
        odd = sorted(described.keys() ^ outline.keys())
        raise ValueError(f"the weights are of another policy: {odd[0][:100]!r} is in one of the two only")
    for name, wanted in outline.items():
        kind, shape = described[name]["dtype"], tuple(described[name]["shape"])
        if kind != "F32" or shape != tuple(wanted.shape):
            raise ValueError(
                f"the weights are of another policy: {name} is {kind} {shape}, not F32 {tuple(wanted.shape)}"
            )
    tensors = load(content)
    if former:
        tensors = present_names(tensors, POLICY_WEIGHTS, "the weights")
    check_sound(tensors)
    # On the processor, whatever the default is; its first weights are drawn, and replaced: nobody else's draws change.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        network = TokenPolicy(config)
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def check_sound(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights with which a policy does not decide, but drops everything: a logit that is none is not above 0.

    Raises:
        ValueError: if a number is not finite, or beyond :data:`LARGEST`.
    """
    for name, value in tensors.items():
        if not bool((value.abs() <= LARGEST).all()):
            raise ValueError(f"the weights {name} have numbers that are not finite, or beyond {LARGEST:g}")


def _outline(config: PolicyConfig) -> Mapping[str, Tensor]:
    """Names and shapes of a policy's weights, without room for the numbers."""
    with torch.device("meta"):
        network: nn.Module = TokenPolicy(config)
    return network.state_dict()
