"""A frozen Hugging Face model: its layers, what is protected, and running it with tokens leaving on the way."""

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from rltr.attention import IMPLEMENTATION, asked, current
from rltr.errors import RltrError
from rltr.families import GRID, Family
from rltr.forward import Decide, Dropped, Forward, Trace
from rltr.kernels import Backend, check_backend, check_kernel
from rltr.layers import find_tower
from rltr.native_copy import native_copy

COMPUTED = (
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "activation_function", "layer_norm_eps",
    "rms_norm_eps", "patch_size", "image_size", "sliding_window", "rope_parameters",
)  # fmt: skip
"""Fields of a config that decide how weights are used, and that no weight's shape tells."""
ALSO_COMPUTED = (
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "layer_types", "local_attention",
    "layer_norm_epsilon", "norm_eps",
)  # fmt: skip
"""More of them, which count only where a config has them: the fingerprints of all other models stay what they were."""
_attached: "WeakKeyDictionary[PreTrainedModel, ReferenceType[Backbone]]" = WeakKeyDictionary()


class Backbone:
    """A frozen model, inspected once; anything unsupported is refused here, with the reason.

    Nothing of the model changes until :meth:`attach`, and :meth:`detach` restores it bit for bit. Both count: the model
    is restored when everyone who attached has detached. While attached, a forward that rltr does not run itself passes
    through untouched, on transformers' ``sdpa`` attention. ``copy.deepcopy`` of an attached model is the native model.

    Args:
        model: a model of a supported family, in evaluation mode.
        tower: the part whose tokens may leave, such as ``vision_model`` of a CLIP; None takes the whole, or what the
            family says (the encoder of a Whisper).
        family: for a model type that rltr does not know. Prove it with ``rltr.check_backbone`` before you rely on it.
        attention: how uneven rows are computed, see :data:`rltr.kernels.Backend`; ``auto`` is the best for the device.
            A kernel is checked against the device and the precision that the model has now.

    Attributes:
        tower: as it was asked for.
        root: the part whose tokens may leave; mostly the model itself.
        config: of the root.
        layers: of the root, in the order in which they run; a layer that runs several times is listed as often.
        family: what is known about the root.
        width: of the hidden states.

    Raises:
        RltrError: if the model cannot be run with fewer tokens exactly, or ``attention`` not at all; the message says
            why.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tower: str | None = None,
        family: Family | None = None,
        attention: Backend = "auto",
    ) -> None:
        check_backend(attention)
        self.model = model
        self.attention: Backend = attention
        check_kernel(attention, model.device, model.dtype)
        found = find_tower(model, tower, family)
        self.tower = tower
        self.root = found.root
        self.config = found.root.config
        self.layers = found.layers
        self.family = found.family
        self.width: int = self.config.hidden_size
        self._names = {layer: list(inspect.signature(layer.forward).parameters) for layer in self.layers}
        self._attached = 0
        self._lock = Lock()
        self._handles: list[RemovableHandle] = []
        self._native_attention: str = self.config._attn_implementation

    @classmethod
    def shared(cls, model: PreTrainedModel) -> "Backbone":
        """The backbone that is attached to a model by now, or a new one: for environments that share a model."""
        known = _attached[model]() if model in _attached else None
        return cls(model) if known is None else known

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
        """SHA-256 over all weights and what the config does with them: the same on every machine.

        Names, shapes and values count; values are rounded to bfloat16 first, so that a checkpoint has one fingerprint
        in float32 and in bfloat16. Of the config counts what changes answers without changing a weight.
        """
        computed = [[name, getattr(self.config, name, None)] for name in COMPUTED]
        also = [[name, getattr(self.config, name, None)] for name in ALSO_COMPUTED]
        computed += [[name, value] for name, value in also if value is not None]
        digest = hashlib.sha256(json.dumps([self.config.model_type, computed], default=str).encode())
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
                self.root.set_attn_implementation(IMPLEMENTATION)
                for layer in dict.fromkeys(self.layers):
                    self._handles.append(layer.register_forward_pre_hook(self._before_layer, with_kwargs=True))
                self._handles.append(self.layers[-1].register_forward_hook(self._after_layer))
                # Looked up by copy.deepcopy: a copy with hooks of this backbone would belong to nobody.
                vars(self.model)["__deepcopy__"] = self._copy_model
                _attached[self.model] = ref(self)
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
                self.root.set_attn_implementation(self._native_attention)
                vars(self.model).pop("__deepcopy__", None)
                _attached.pop(self.model, None)

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
        forward = Forward(self, decide, layers, dropped, self.family, self.config)
        forward.backend = self.attention
        return forward

    def run(self, forward: Forward, inputs: Mapping[str, Tensor]) -> tuple[ModelOutput, Trace]:
        """Run the model on ``inputs`` with the token stream ``forward``; the output is the model's own.

        Raises:
            RltrError: if the backbone is not attached, the model is in training mode, or asks for recorded layers.
        """
        inputs = self.prepare(inputs, forward)
        token = current.set(forward)
        try:
            return self.model(**inputs), forward.trace
        finally:
            current.reset(token)

    def prepare(self, inputs: Mapping[str, Any], forward: Forward) -> dict[str, Any]:
        """Tell ``forward`` what it must know of the inputs, and get the model's own keyword arguments ready for it.

        Raises:
            RltrError: if the result would be wrong.
        """
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
        if inputs.get("past_key_values") is not None or (self.family.cached and inputs.get("use_cache")):
            raise RltrError(
                "a cache of keys and values was asked for (generate() does), but tokens that leave have none: rltr "
                "runs this model on whole sequences only; pass use_cache=False, or detach rltr to generate"
            )
        if self.family.also_protected is not None:
            forward.also_protected = self.family.also_protected(inputs, self.config)
        return self.uncached(inputs)

    def uncached(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """``inputs`` for a pass that keeps no keys and values: what a native pass is compared with keeps none."""
        return {**inputs, "use_cache": False} if self.family.cached else dict(inputs)

    def _copy_model(self, memo: dict[int, Any]) -> PreTrainedModel:
        return native_copy(self.model, self.root, self._native_attention, memo)

    def _before_layer(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        forward = self._running()
        if forward is None:
            return None
        if forward.layer + 1 >= self.depth or self.layers[forward.layer + 1] is not layer:
            raise RltrError(
                f"{type(self.model).__name__} runs its layers in another order than they are listed in: not supported"
            )
        names = self._names[layer]
        named = dict(zip(names, args, strict=False)) | kwargs
        mask = named.get("attention_mask")
        wanted = None if mask is None else asked(mask)
        if mask is not None and wanted is None:
            raise RltrError(
                f"attention_mask has {mask.ndim} dimensions: rltr takes a (rows, tokens) mask of padding; "
                f"any other mask would be lost when tokens leave"
            )
        hidden = named["hidden_states"]
        if hidden.ndim != 3:
            raise RltrError(f"{type(self.model).__name__} is not supported: {GRID} ({hidden.ndim} dimensions)")
        named["hidden_states"] = forward.before_layer(hidden, wanted)
        if self.family.patches_only:
            named["position_embeddings"] = forward.follow_patches(*named["position_embeddings"])
        for name in named.keys() - {"hidden_states", "attention_mask"}:
            named[name] = forward.follow(named[name])
        if "attention_mask" in named:
            named["attention_mask"] = None
        positional = tuple(named[name] for name in names[: len(args)])
        return positional, {name: named[name] for name in kwargs}

    def _after_layer(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        forward = self._running()
        if forward is None or forward.layer + 1 < self.depth:
            return None
        if isinstance(output, tuple):
            return (forward.after_last_layer(output[0]), *output[1:])
        return forward.after_last_layer(output)

    def _running(self) -> Forward | None:
        """The reduced forward pass of this model in the current thread or greenlet."""
        forward = current.get()
        return forward if isinstance(forward, Forward) and forward.owner is self else None
