"""Serialise a policy's weights as safetensors. Shapes are checked before memory for tensors is allocated."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import load, save
from torch import Tensor, nn

from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.system.former_names import POLICY_WEIGHTS, present_names

LARGEST = 1e6
"""Largest accepted absolute weight: larger than any trained one, and logits do not overflow in single precision."""
HEADER = 2**16
"""Bytes allowed for names and shapes in the file."""


def to_bytes(network: TokenPolicy) -> bytes:
    """Serialise the weights of a policy.

    Raises:
        ValueError: if a weight is not finite or too large (see :func:`check_sound`).
    """
    check_sound(network.state_dict())
    return save({name: value.detach().cpu().float().contiguous() for name, value in network.state_dict().items()})


def most_bytes(config: PolicyConfig) -> int:
    """Largest size in bytes of the weights file of a policy with this config."""
    return HEADER + 4 * sum(value.numel() for value in _outline(config).values())


def from_bytes(content: bytes, config: PolicyConfig, former: bool = False) -> TokenPolicy:
    """Load a policy that :func:`to_bytes` wrote; it is frozen and in evaluation mode.

    Args:
        content: content of the file.
        config: shape of the policy.
        former: whether tensors have their names of before format 4.

    Raises:
        ValueError: if names, shapes or dtypes do not fit ``config``, or a weight is not finite or too large.
    """
    try:
        described = dict(deserialize(content))
    except SafetensorError as error:
        raise ValueError(f"the weights cannot be read: {' '.join(str(error).split())}") from error
    names = {new: old for old, new in POLICY_WEIGHTS.items()} if former else {}
    outline = {names.get(name, name): value for name, value in _outline(config).items()}
    if described.keys() != outline.keys():
        odd = sorted(described.keys() ^ outline.keys())
        raise ValueError(f"the weights are of another policy: {odd[0][:100]!r} is either missing or not expected")
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
    # On the CPU whatever the default device is. The random initial weights are replaced; the fork keeps the global
    # random state unchanged.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        network = TokenPolicy(config)
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def check_sound(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite: with a NaN logit, which is not above 0, a policy would drop every token.

    Raises:
        ValueError: if a weight is not finite, or its absolute value is above :data:`LARGEST`.
    """
    for name, value in tensors.items():
        if not bool((value.abs() <= LARGEST).all()):
            raise ValueError(f"the weights {name} have numbers that are not finite, or beyond {LARGEST:g}")


def _outline(config: PolicyConfig) -> Mapping[str, Tensor]:
    """Names and shapes of a policy's weights, on the meta device."""
    with torch.device("meta"):
        network: nn.Module = TokenPolicy(config)
    return network.state_dict()
