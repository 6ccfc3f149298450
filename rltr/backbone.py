"""A frozen Hugging Face model: its layers, what is protected, and running it with tokens leaving on the way."""

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from rltr.attention import IMPLEMENTATION, current
from rltr.errors import RltrError
from rltr.families import FAMILIES
from rltr.forward import Decide, Dropped, Forward, Trace, gather_token_axes


class Backbone:
    """A frozen model, inspected once; anything unsupported is refused here, with the reason.

    Nothing of the model changes until :meth:`attach`, and :meth:`detach` restores it bit for bit. Both count: the model
    is restored when everyone who attached has detached. While attached, a forward that rltr does not run itself passes
    through untouched, on transformers' ``sdpa`` attention.

    Args:
        model: a model of a supported family, in evaluation mode.

    Raises:
        RltrError: if the model cannot be run with fewer tokens exactly; the message says why.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config = model.config
        self.layers = _find_layers(model)
        self.family = FAMILIES[self.config.model_type]
        self.width: int = self.config.hidden_size
        self._names = [list(inspect.signature(layer.forward).parameters) for layer in self.layers]
        self._attached = 0
        self._lock = Lock()
        self._handles: list[RemovableHandle] = []
        self._native_attention: str = self.config._attn_implementation

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backbone":
        """Itself: one model has one backbone. Gymnasium copies the arguments that environments are made of."""
        return self

    @property
    def name(self) -> str:
        """Where the model came from: a hub id, a folder's name, or its class if it was never saved."""
        return self.model.name_or_path or type(self.model).__name__

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.model.dtype

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names, shapes and values of all weights and the model's type: the same on every machine.

        Values are rounded to bfloat16 first, so that a checkpoint has one fingerprint in float32 and in bfloat16.
        """
        digest = hashlib.sha256(self.config.model_type.encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(json.dumps([name, list(value.shape)]).encode())
            rounded = value.detach().to(torch.bfloat16) if value.is_floating_point() else value
            digest.update(rounded.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def attach(self) -> None:
        """Put hooks on the layers and rltr's attention into the model; it behaves as before until something runs."""
        with self._lock:
            if self._attached == 0:
                if self.config._attn_implementation == IMPLEMENTATION:
                    raise RltrError("another rltr.Backbone is attached to this model: detach it first, or share it")
                self._native_attention = self.config._attn_implementation
                self.model.set_attn_implementation(IMPLEMENTATION)
                for index, layer in enumerate(self.layers):
                    before = partial(self._before_layer, index)
                    self._handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
                self._handles.append(self.layers[-1].register_forward_hook(self._after_last_layer))
            self._attached += 1

    def detach(self) -> None:
        """Undo one :meth:`attach`; the last one restores the model.

        Raises:
            RltrError: if the backbone is not attached.
        """
        with self._lock:
            if self._attached == 0:
                raise RltrError("this backbone is not attached to its model, so there is nothing to detach")
            self._attached -= 1
            if self._attached == 0:
                for handle in self._handles:
                    handle.remove()
                self._handles.clear()
                self.model.set_attn_implementation(self._native_attention)

    @contextmanager
    def attached(self) -> Iterator["Backbone"]:
        """Attach for the length of a ``with`` block."""
        self.attach()
        try:
            yield self
        finally:
            self.detach()

    def forward(self, decide: Decide, layers: Sequence[int], dropped: Dropped = "merge") -> Forward:
        """A token stream for one forward pass of this model.

        Raises:
            RltrError: if a decision layer does not exist or they do not rise.
        """
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= self.depth:
            raise RltrError(
                f"decision layers {list(layers)} do not fit this model: name layers in rising order, "
                f"each from 0 to {self.depth - 1} (tokens leave before the layer runs)"
            )
        return Forward(self, decide, layers, dropped, self.family.leading)

    def run(self, forward: Forward, inputs: Mapping[str, Tensor]) -> tuple[ModelOutput, Trace]:
        """Run the model on ``inputs`` with the token stream ``forward``; the output is the model's own.

        Raises:
            RltrError: if the backbone is not attached, the model is in training mode, or asks for recorded layers.
        """
        self.check_ready(inputs)
        token = current.set(forward)
        try:
            return self.model(**inputs), forward.trace
        finally:
            current.reset(token)

    def check_ready(self, inputs: Mapping[str, Any]) -> None:
        """Refuse a forward pass whose result would be wrong."""
        if self._attached == 0:
            raise RltrError("the backbone is not attached: use `with backbone.attached():` or backbone.attach()")
        if self.model.training:
            raise RltrError("the model is in training mode, where dropout makes it another model: call model.eval()")
        for record in ("output_hidden_states", "output_attentions"):
            if inputs.get(record, getattr(self.config, record, False)):
                raise RltrError(
                    f"{record}=True asks for one tensor per layer, but tokens leave between layers: "
                    f"switch it off, or detach rltr for this call"
                )

    def _before_layer(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        forward = current.get()
        if not isinstance(forward, Forward) or forward.owner is not self:
            return None
        named = dict(zip(self._names[index], args, strict=False)) | kwargs
        hidden, mask = named["hidden_states"], named.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise RltrError(
                f"attention_mask has {mask.ndim} dimensions: rltr takes a (rows, tokens) mask of padding; "
                f"any other mask would be lost when tokens leave"
            )
        named["hidden_states"] = forward.before_layer(index, hidden, None if mask is None else mask.bool())
        named["attention_mask"] = None
        rows, grid = len(forward.stages[0].counts), forward.stages[0].grid
        for name in named.keys() - {"hidden_states", "attention_mask"}:
            named[name] = gather_token_axes(named[name], forward, rows, grid)
        count = len(args)
        positional = tuple(named[name] for name in self._names[index][:count])
        return positional, {name: named[name] for name in kwargs}

    def _after_last_layer(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        forward = current.get()
        if not isinstance(forward, Forward) or forward.owner is not self:
            return None
        if isinstance(output, tuple):
            return (forward.after_last_layer(output[0]), *output[1:])
        return forward.after_last_layer(output)


def _find_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers between which tokens can leave, found through what transformers declares; refuses what is not sure."""
    kind = getattr(model.config, "model_type", type(model).__name__)

    def refuse(reason: str) -> RltrError:
        return RltrError(f"{type(model).__name__} is not supported: {reason}")

    if kind not in FAMILIES:
        raise refuse(f"model type {kind!r} has not been proven exact; proven: {', '.join(sorted(FAMILIES))}")
    if getattr(model.config, "is_decoder", False) or getattr(model.config, "add_cross_attention", False):
        raise refuse("it attends causally or to another model's output; rltr runs it as an encoder only")
    base = model.base_model
    layer_class = (getattr(base, "_can_record_outputs", None) or {}).get("hidden_states")
    if not isinstance(layer_class, type) or not getattr(base, "_supports_attention_backend", False):
        raise refuse("this version of transformers does not declare its layers and attention; use transformers >= 5")
    layers = [module for module in base.modules() if isinstance(module, layer_class)]
    if len(layers) < 2:
        raise refuse(f"it has {len(layers)} layers, and tokens can only leave between two")
    if getattr(model.config, "chunk_size_feed_forward", 0):
        raise refuse("chunk_size_feed_forward cuts the token axis into equal parts; set it to 0 in the config")
    return layers
