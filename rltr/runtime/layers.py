"""Find the layers of a model through what transformers declares; raise where they cannot be found reliably."""

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
    """The part of a model that is run on fewer tokens: in most models the whole.

    Attributes:
        root: the model or the part.
        family: description of its family.
        layers: the layers in the order in which they run; a layer that runs several times (ALBERT) is listed each time.
    """

    root: PreTrainedModel
    family: Family
    layers: list[nn.Module]


def find_tower(model: PreTrainedModel, name: str | None = None, family: Family | None = None) -> Tower:
    """Find the layers of a model.

    Args:
        model: the model.
        name: name of a part, such as ``vision_model`` of a CLIP; None takes the family's default, mostly the whole.
        family: description of a model type that rltr does not know. Check it with ``rltr.check_backbone`` first.

    Raises:
        RltrError: if there is no such part, or if the model cannot be run exactly on fewer tokens.
    """

    def refuse(reason: str) -> RltrError:
        return RltrError(f"{type(model).__name__} is not supported: {reason}")

    root = _named_part(model, name) if name else model
    kind = getattr(root.config, "model_type", "") or type(root).__name__
    if family is None:
        if kind in REFUSED:
            raise refuse(REFUSED[kind])
        if kind not in FAMILIES:
            raise refuse(_unknown_type(kind) + _tower_hint(root))
        family = FAMILIES[kind]
    if reason := family.refusal(root.config):
        raise refuse(reason)
    if family.tower:
        root = _family_tower(root, family.tower)
    if reason := _unsupported_config(root):
        raise refuse(reason)
    classes = _layer_classes(root)
    if not classes:
        raise refuse(
            "transformers does not declare its layers (no hidden_states in _can_record_outputs), so it is "
            f"unknown between which modules tokens can be removed{_tower_hint(root)}"
        )
    stacks = _stacks(root, classes)
    if len(stacks) > 1:
        raise refuse(f"it has {len(stacks)} stacks of layers ({', '.join(stacks)}), not one{_tower_hint(root)}")
    layers = _in_run_order(root, [layer for stack in stacks.values() for layer in stack])
    if len(layers) < 2:
        raise refuse(
            f"it has {len(layers)} layers, but tokens can only be removed between two layers{_tower_hint(root)}"
        )
    if not all(part._can_set_attn_implementation() for part in _models_around(root, layers)):
        raise refuse(OWN_ATTENTION)
    for layer in dict.fromkeys(layers):
        names = list(signature_of(layer).parameters)
        if "hidden_states" not in names:
            raise refuse(f"{type(layer).__name__} takes {', '.join(names)}, but no hidden_states")
    return Tower(root, family.with_config(root.config), layers)


def signature_of(module: nn.Module) -> inspect.Signature:
    """Signature of the ``forward`` of a module's class, ignoring wrappers around it, such as accelerate's."""
    signature = inspect.signature(type(module).forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _unknown_type(kind: str) -> str:
    """Reason for refusing a model type that is in no table."""
    close = get_close_matches(kind, FAMILIES, n=3)
    alike = f"; similar names: {', '.join(close)}" if close else ""
    return (
        f"model type {kind!r} has not been proven exact; {len(FAMILIES)} others have (see docs/models.md{alike}); "
        "describe it with family=, and check it with rltr.check_backbone(model, family=rltr.Family(...))"
    )


def _unsupported_config(root: PreTrainedModel) -> str | None:
    """Reason why a model with this config cannot work, whatever its type; None if there is none."""
    if getattr(root.config, "chunk_size_feed_forward", 0):
        return "chunk_size_feed_forward splits the token axis into equal chunks; set it to 0 in the config"
    if not isinstance(getattr(root.config, "hidden_size", None), int):
        return (
            f"its config has no single hidden_size: it has several parts, or layers differ in width{_tower_hint(root)}"
        )
    return None


def _named_part(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """The outermost part of a model that has this name and is a ``PreTrainedModel``."""
    part = _find_part(model, name)
    if part is None:
        known = ", ".join(_towers(model)) or "none"
        raise RltrError(f"{type(model).__name__} has no part {name!r} that is a model; parts that rltr knows: {known}")
    return part


def _family_tower(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """The part that is reduced in a family; the model itself if it is that part (an encoder without a decoder)."""
    if "Decoder" in type(model).__name__:
        raise RltrError(
            f"{type(model).__name__} is not supported: in this family rltr runs the {name}, not the decoder"
        )
    return _find_part(model, name) or model


def _find_part(model: PreTrainedModel, name: str) -> PreTrainedModel | None:
    for path, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and (path == name or path.endswith(f".{name}")):
            return module
    return None


def _towers(model: PreTrainedModel) -> list[str]:
    """Names of a model's parts that belong to a known family."""
    parts = [(path, module) for path, module in model.named_modules() if path and isinstance(module, PreTrainedModel)]
    return [path for path, module in parts if getattr(module.config, "model_type", "") in FAMILIES]


def _tower_hint(root: PreTrainedModel) -> str:
    """End of an error message: which parts of the model can be reduced."""
    towers = ", ".join(_towers(root))
    return f"; these parts of it can be reduced, choose one with tower=: {towers}" if towers else ""


def _stacks(root: PreTrainedModel, classes: tuple[type[nn.Module], ...]) -> dict[str, list[nn.Module]]:
    """Layers by the path of their outermost ``ModuleList``: in ViT-MAE, encoder and decoder have one each."""
    modules = dict(root.named_modules())
    stacks: dict[str, list[nn.Module]] = {}
    for path, module in modules.items():
        if isinstance(module, classes):
            above = accumulate(path.split("."), lambda parent, name: f"{parent}.{name}")
            stack = next((place for place in above if isinstance(modules[place], nn.ModuleList)), "")
            stacks.setdefault(stack, []).append(module)
    return stacks


def _layer_classes(root: PreTrainedModel) -> tuple[type[nn.Module], ...]:
    """Layer classes that transformers records hidden states of; empty if none are declared."""
    for module in root.modules():
        declared = (getattr(module, "_can_record_outputs", None) or {}).get("hidden_states")
        classes = declared if isinstance(declared, list) else [declared]
        if all(isinstance(kind, type) for kind in classes):
            return tuple(classes)
    return ()


def _models_around(root: PreTrainedModel, layers: list[nn.Module]) -> list[PreTrainedModel]:
    """The root and its parts that are a ``PreTrainedModel`` and hold some of the layers."""
    parts = [part for part in root.modules() if isinstance(part, PreTrainedModel)]
    return [part for part in parts if any(module in layers for module in part.modules())]


def _in_run_order(root: PreTrainedModel, layers: list[nn.Module]) -> list[nn.Module]:
    """Layers in the order in which they run, repeated where steps share them (ALBERT)."""
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
    """Find the innermost part of a model that runs all of its layers and takes the model's main input.

    There all inputs are known by name, whether a head, a larger model or a user calls it.
    """
    base: nn.Module = root
    for part in root.modules():
        within = set(part.modules())
        if all(layer in within for layer in layers) and root.main_input_name in signature_of(part).parameters:
            base = part  # parents come first
    return base
