"""Finding the layers between which tokens can leave, through what transformers declares; refuses what is not sure."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate

from torch import nn
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.runtime.families import FAMILIES, OWN_ATTENTION, REFUSED, Family


@dataclass(frozen=True)
class Tower:
    """The part of a model whose tokens may leave: mostly the whole.

    Attributes:
        root: the model, or its part.
        family: what is known about it.
        layers: in the order in which they run; one that runs several times (ALBERT) is listed as often.
    """

    root: PreTrainedModel
    family: Family
    layers: list[nn.Module]


def find_tower(model: PreTrainedModel, name: str | None = None, family: Family | None = None) -> Tower:
    """Find the layers of a model.

    Args:
        model: the model.
        name: a part of it, such as ``vision_model`` of a CLIP; None takes what the family says, mostly the whole.
        family: for a model type that rltr does not know. Prove it with ``rltr.check_backbone`` before you rely on it.

    Raises:
        RltrError: if it cannot be run with fewer tokens exactly; the message says why.
    """

    def refuse(reason: str) -> RltrError:
        return RltrError(f"{type(model).__name__} is not supported: {reason}")

    root = _part(model, name) if name else model
    kind = getattr(root.config, "model_type", "") or type(root).__name__
    if family is None:
        if kind in REFUSED:
            raise refuse(REFUSED[kind])
        if kind not in FAMILIES:
            raise refuse(_unproven(kind) + _choice(root))
        family = FAMILIES[kind]
    if reason := family.refusal(root.config):
        raise refuse(reason)
    if family.tower:
        root = _tower(root, family.tower)
    if reason := _misfit(root):
        raise refuse(reason)
    classes = _layer_classes(root)
    if not classes:
        raise refuse(
            "transformers does not declare its layers (no hidden_states in _can_record_outputs), so nobody can tell "
            f"between which modules tokens may leave{_choice(root)}"
        )
    stacks = _stacks(root, classes)
    if len(stacks) > 1:
        raise refuse(f"it has {len(stacks)} stacks of layers ({', '.join(stacks)}), not one{_choice(root)}")
    layers = _in_order(root, [layer for stack in stacks.values() for layer in stack])
    if len(layers) < 2:
        raise refuse(f"it has {len(layers)} layers, and tokens can only leave between two{_choice(root)}")
    if not all(part._can_set_attn_implementation() for part in _around(root, layers)):
        raise refuse(OWN_ATTENTION)
    for layer in dict.fromkeys(layers):
        names = list(signature_of(layer).parameters)
        if "hidden_states" not in names:
            raise refuse(f"{type(layer).__name__} takes {', '.join(names)}, and no hidden_states that could leave")
    return Tower(root, family.with_config(root.config), layers)


def signature_of(module: nn.Module) -> inspect.Signature:
    """What a module's class takes, whatever somebody has put in front of this one (accelerate takes anything)."""
    signature = inspect.signature(type(module).forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _unproven(kind: str) -> str:
    """What a model type that is in no table is told."""
    close = get_close_matches(kind, FAMILIES, n=3)
    alike = f"; of these {', '.join(close)} {'is' if len(close) == 1 else 'are'} called alike" if close else ""
    return (
        f"model type {kind!r} has not been proven exact, as {len(FAMILIES)} others have (docs/models.md lists them"
        f"{alike}); describe it with family=, and let rltr.check_backbone(model, family=rltr.Family(...)) decide"
    )


def _misfit(root: PreTrainedModel) -> str | None:
    """Why no model that is made like this one can work, whatever its type; None if it may."""
    if getattr(root.config, "chunk_size_feed_forward", 0):
        return "chunk_size_feed_forward cuts the token axis into equal parts; set it to 0 in the config"
    if not isinstance(getattr(root.config, "hidden_size", None), int):
        return f"its config has no one hidden_size: it has several parts, or layers of several widths{_choice(root)}"
    return None


def _part(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """The outermost part of a model that has this name and is a model itself."""
    part = _found(model, name)
    if part is None:
        has = ", ".join(_towers(model)) or "none"
        raise RltrError(
            f"{type(model).__name__} has no part {name!r} that is a model; of those it has rltr knows: {has}"
        )
    return part


def _tower(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """The part that a family reduces, which may be all that is there: an encoder without the decoder beside it."""
    if "Decoder" in type(model).__name__:
        raise RltrError(
            f"{type(model).__name__} is not supported: of this family rltr runs the {name}, not the decoder"
        )
    return _found(model, name) or model


def _found(model: PreTrainedModel, name: str) -> PreTrainedModel | None:
    for path, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and (path == name or path.endswith(f".{name}")):
            return module
    return None


def _towers(model: PreTrainedModel) -> list[str]:
    """Names of the parts of a model that are of a known family."""
    parts = [(path, module) for path, module in model.named_modules() if path and isinstance(module, PreTrainedModel)]
    return [path for path, module in parts if getattr(module.config, "model_type", "") in FAMILIES]


def _choice(root: PreTrainedModel) -> str:
    """What a refusal of the whole says of its parts."""
    towers = ", ".join(_towers(root))
    return f"; of its parts these can be reduced, choose one with tower=: {towers}" if towers else ""


def _stacks(root: PreTrainedModel, classes: tuple[type[nn.Module], ...]) -> dict[str, list[nn.Module]]:
    """Layers by the outermost list that holds them: ViT-MAE's decoder has one of its own beside the encoder's."""
    modules = dict(root.named_modules())
    stacks: dict[str, list[nn.Module]] = {}
    for path, module in modules.items():
        if isinstance(module, classes):
            above = accumulate(path.split("."), lambda parent, name: f"{parent}.{name}")
            stack = next((place for place in above if isinstance(modules[place], nn.ModuleList)), "")
            stacks.setdefault(stack, []).append(module)
    return stacks


def _layer_classes(root: PreTrainedModel) -> tuple[type[nn.Module], ...]:
    """Classes of layers that transformers' own recording of hidden states looks for."""
    for module in root.modules():
        declared = (getattr(module, "_can_record_outputs", None) or {}).get("hidden_states")
        classes = declared if isinstance(declared, list) else [declared]
        if all(isinstance(kind, type) for kind in classes):
            return tuple(classes)
    return ()


def _around(root: PreTrainedModel, layers: list[nn.Module]) -> list[PreTrainedModel]:
    """The parts of a model, itself included, that are models and hold some of the layers."""
    parts = [part for part in root.modules() if isinstance(part, PreTrainedModel)]
    return [part for part in parts if any(module in layers for module in part.modules())]


def _in_order(root: PreTrainedModel, layers: list[nn.Module]) -> list[nn.Module]:
    """Layers as often as they run: ALBERT has groups of layers that many steps share."""
    groups = getattr(root.config, "num_hidden_groups", None)
    if groups is None:
        return layers
    steps, inner = root.config.num_hidden_layers, root.config.inner_group_num
    order = []
    for step in range(steps):
        group = int(step / (steps / groups))
        order += layers[group * inner : (group + 1) * inner]
    return order


def find_base(root: PreTrainedModel, layers: Sequence[nn.Module]) -> nn.Module:
    """The innermost part of a model that runs all of its layers and takes the model's own input.

    It is where all names of inputs are known, whoever calls it: a head, a larger model, or a user.
    """
    base: nn.Module = root
    for part in root.modules():
        within = set(part.modules())
        if all(layer in within for layer in layers) and root.main_input_name in signature_of(part).parameters:
            base = part  # parents come first
    return base
