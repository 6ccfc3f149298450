"""A frozen Hugging Face model, and how it is run while tokens are removed between its layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.utils import ModelOutput

from rltr.errors import RltrError
from rltr.runtime.attention import MaskRequest, current, mark_bidirectional, request_of
from rltr.runtime.calls import named_inputs, refuse_unsound, wants_hidden_states
from rltr.runtime.decision import Decide, Removal, Trace
from rltr.runtime.families import GRID, Family, last_text_token
from rltr.runtime.fingerprint import fingerprint
from rltr.runtime.forward import Forward
from rltr.runtime.installation import LOCK, Installation, Server, installed_in, wanted
from rltr.runtime.kernels import Backend, check_backend, check_kernel
from rltr.runtime.layers import find_base, find_tower, signature_of
from rltr.runtime.wrapped import refuse_wrapped


class Backbone:
    """A frozen model that can run on fewer tokens: its layers, and what rltr must know of its family.

    To run a policy, :func:`rltr.attach` is all you need. A backbone is for your own selectors
    (:class:`rltr.ReducedModel`), for environments and for measurements. It inspects the model once, and refuses a model
    that it cannot run exactly.

    The model is not changed before :meth:`attach`, and :meth:`detach` restores it bit for bit. Calls are counted: the
    model is restored once :meth:`detach` has been called as often as :meth:`attach`, and every forward pass that had
    begun by then has ended. While attached, calls that do not come from rltr run natively, on transformers' ``sdpa``
    attention. ``copy.deepcopy`` of an attached model is the native model.

    Args:
        model: a model of a supported family, in evaluation mode.
        tower: name of the submodule whose tokens may leave, such as ``vision_model`` of a CLIP. None takes the family's
            default: the encoder of a Whisper, the whole model for most families.
        family: description of a model type that rltr does not know. Test it with ``rltr.check_backbone`` first.
        attention: attention backend for rows of different lengths, see :data:`rltr.runtime.kernels.Backend`; ``auto``
            takes the fastest for the device. It is checked against the model's current device and precision.

    Attributes:
        tower: the argument ``tower``.
        root: the submodule whose tokens may leave; mostly the model itself.
        config: the root's config.
        layers: the root's layers in the order in which they run; a layer that runs several times is listed as often.
        family: the description of the root's family.
        width: width of the hidden states.

    Raises:
        RltrError: if the model cannot be run exactly with fewer tokens, or not with ``attention``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tower: str | None = None,
        family: Family | None = None,
        attention: Backend = "auto",
    ) -> None:
        check_backend(attention)
        refuse_wrapped(model)
        self.model = model
        self.attention: Backend = attention
        check_kernel(attention, model.device, model.dtype)
        found = find_tower(model, tower, family)
        self.tower = tower
        self.root = found.root
        self.config = found.root.config
        self.layers = found.layers
        self.family = found.family
        if not self.root._supports_sdpa and not self.family.causal:
            mark_bidirectional(self.root.modules())
        self.width: int = self.config.hidden_size
        self.base = find_base(self.root, self.layers)
        if "mc_token_ids" in signature_of(model).parameters:
            raise RltrError(
                f"{type(model).__name__} is not supported: its head reads the tokens that mc_token_ids names, but "
                "mc_token_ids is not passed to the submodule whose tokens leave, so they cannot be protected"
            )
        self._names = {layer: list(signature_of(layer).parameters) for layer in self.layers}
        self._signature = signature_of(self.base)
        self._attached = 0
        self._installation: Installation | None = None

    @classmethod
    def shared(cls, model: PreTrainedModel, tower: str | None = None, attention: Backend = "auto") -> "Backbone":
        """The backbone that is already attached to this model, or a new one: environments share it.

        Raises:
            RltrError: if the attached backbone has another attention backend, or a policy is attached.
        """
        new = cls(model, tower, attention=attention)
        installation = installed_in(new.base)
        attached = None if installation is None else installation.owner
        if not isinstance(attached, Backbone):
            return new
        attached.refuse_policy()
        if attached.attention != attention:
            raise RltrError(
                f"a backbone with attention={attached.attention!r} is attached to this model, so it cannot be shared "
                f"as one with attention={attention!r}: detach it first, or pass attention={attached.attention!r}"
            )
        return attached

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backbone":
        """Itself, because one model has one backbone, and Gymnasium copies the arguments of environments."""
        return self

    @property
    def name(self) -> str:
        """The model's hub id or folder, or the name of its class if it was never saved."""
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
        """Digest of the weights and of how the config uses them; see :mod:`rltr.runtime.fingerprint`."""
        return fingerprint(self.model, self.config)

    @cached_property
    def fingerprint_in_float16(self) -> str:
        """:attr:`fingerprint` of the same weights loaded in float16."""
        return fingerprint(self.model, self.config, torch.float16)

    def forget_fingerprints(self) -> None:
        """Compute fingerprints again at the next access, because the weights were changed."""
        for name in ("fingerprint", "fingerprint_in_float16"):
            vars(self).pop(name, None)

    def attach(self) -> None:
        """Wrap the model's layers and set its attention implementation. Calls still run natively until :meth:`serve`.

        Raises:
            RltrError: if another backbone or a policy is attached to the same part of the model.
        """
        with LOCK:
            self.refuse_policy()
            if self._attached == 0:
                installation = installed_in(self.base)
                if installation is None:
                    installation = Installation(self.model, self.root, self.base, self.layers)
                if installation.owner is not None:
                    installation.owner.refuse_policy()
                    raise RltrError("another rltr.Backbone is attached to this model: detach it first, or share it")
                installation.hold()
                installation.owner, self._installation = self, installation
            self._attached += 1

    def detach(self) -> None:
        """Undo one :meth:`attach`. The last one restores the model, once all forward passes that have begun have ended.

        Raises:
            RltrError: if the backbone is not attached.
        """
        with LOCK:
            if self._attached == 0 or self._installation is None:
                raise RltrError("this backbone is not attached to its model, so there is nothing to detach")
            self._attached -= 1
            if self._attached == 0:
                self._installation.owner = None
                self._installation.release()
                self._installation = None

    def serve(self, server: Server | None) -> None:
        """Make every call of the attached model a reduced forward pass; with None, calls run natively again."""
        with LOCK:
            assert self._installation is not None, "attach first"
            self._installation.server = server

    def refuse_policy(self) -> None:
        """Raise if a policy is attached, because the model's outputs would be taken for the native ones.

        Raises:
            RltrError: if a policy is attached.
        """
        if self._installation is not None and self._installation.server is not None:
            raise RltrError(
                "a policy is attached to this model, so its outputs are not the native ones: call rltr.detach(model) "
                "first, or use a copy.deepcopy of it, which is native"
            )

    @contextmanager
    def attached(self) -> Iterator["Backbone"]:
        """Attach for the length of a ``with`` block."""
        self.attach()
        try:
            yield self
        finally:
            self.detach()

    def forward(self, decide: Decide, layers: Sequence[int], removal: Removal = "merge") -> Forward:
        """Prepare one reduced forward pass of this model; :meth:`run` runs it.

        Args:
            decide: the selector, called at every decision layer.
            layers: the decision layers in ascending order.
            removal: whether removed tokens are merged or dropped.

        Raises:
            RltrError: if ``layers`` is empty, not in ascending order, or has a layer that does not exist.
        """
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= self.depth:
            raise RltrError(
                f"decision layers {list(layers)} do not fit this model: name layers in ascending order, "
                f"each from 0 to {self.depth - 1} (tokens leave before the layer runs)"
            )
        return Forward(self, decide, layers, removal)

    def run(self, forward: Forward, inputs: Mapping[str, Any]) -> tuple[ModelOutput, Trace]:
        """Run the model on ``inputs`` as the reduced pass ``forward``; the output is the model's own.

        Raises:
            RltrError: if the backbone is not attached, or the result would be wrong (see :meth:`run_base`).
        """
        if self._attached == 0:
            raise RltrError("the backbone is not attached: use `with backbone.attached():` or backbone.attach()")
        reset = wanted.set(forward)
        try:
            output = self.model(**dict(inputs) if "use_cache" in inputs else self.uncached(inputs))
        finally:
            wanted.reset(reset)
        if not forward.stages:
            raise RltrError(
                f"{type(self.model).__name__} did not run the submodule whose tokens leave "
                f"({type(self.base).__name__}) on these inputs ({', '.join(inputs)}): give it inputs for that submodule"
            )
        return output, forward.trace

    def run_base(
        self, forward: Forward, native: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run the base as the reduced pass ``forward``. Every reduced pass goes through this method.

        Args:
            forward: the reduced pass.
            native: the base's own forward.
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.

        Raises:
            RltrError: if the result would be wrong: because of the inputs (see
                :func:`rltr.runtime.calls.refuse_unsound`), because the model was changed while attached, or because a
                layer was not run through rltr.
        """
        inputs = named_inputs(self._signature, args, kwargs)
        if self._installation is not None:
            self._installation.refuse_changes()
        refuse_unsound(inputs, self.config, self.family.cached)
        if self.family.also_protected is not None:
            forward.also_protected = self.family.also_protected(inputs, self.config)
            # A decoder without a head reads no particular token.
            forward.refuses_hidden = (
                self.model.base_model is not self.model or self.family.also_protected is not last_text_token
            )
        # Hidden states between layers are recorded for all original tokens.
        forward.on_grid_between_layers = wants_hidden_states(inputs, self.config) or isinstance(
            self.base, BackboneMixin
        )
        if self.family.cached:
            inputs["use_cache"] = False
        reset = current.set(forward)
        try:
            output = native(**inputs)
        finally:
            current.reset(reset)
        if forward.layer + 1 != self.depth:
            raise RltrError(
                f"only {forward.layer + 1} of {self.depth} layers of {type(self.base).__name__} ran with fewer tokens: "
                "something bypasses rltr, such as a forward that was replaced after rltr was attached. Detach, and "
                "attach again when the model is complete"
            )
        return output

    def runs(self, layer: nn.Module) -> bool:
        """Whether ``layer`` belongs to this backbone, not to a copy of the model."""
        return layer in self._names

    def run_layer(
        self,
        forward: Forward,
        layer: nn.Module,
        native: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Run the next layer on the tokens that are left.

        Args:
            forward: the reduced pass.
            layer: the layer.
            native: its own forward.
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.

        Raises:
            RltrError: if the layer cannot be run with fewer tokens.
        """
        if forward.layer + 1 >= self.depth or self.layers[forward.layer + 1] is not layer:
            raise RltrError(
                f"{type(self.model).__name__} is not supported: it does not run its layers in the order in which it "
                "lists them"
            )
        names = self._names[layer]
        named = {**dict(zip(names, args, strict=False)), **kwargs}
        mask = named.get("attention_mask")
        hidden = named["hidden_states"]
        if hidden.ndim != 3:
            raise RltrError(f"{type(self.model).__name__} is not supported: {GRID} ({hidden.ndim} dimensions)")
        named["hidden_states"] = forward.before_layer(hidden, None if mask is None else self._request_of(mask))
        if self.family.patches_only:
            named["position_embeddings"] = forward.gather_rotary(*named["position_embeddings"])
        for name in named.keys() - {"hidden_states", "attention_mask"}:
            named[name] = forward.gather_kept(named[name])
        if "attention_mask" in named:
            named["attention_mask"] = None
        output = native(*(named[name] for name in names[: len(args)]), **{name: named[name] for name in kwargs})
        if isinstance(output, tuple):
            return (forward.after_layer(output[0]), *output[1:])
        return forward.after_layer(output)

    def uncached(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """``inputs``, with ``use_cache=False`` if the model has a KV cache, because reduced passes fill none."""
        return {**inputs, "use_cache": False} if self.family.cached else dict(inputs)

    def _request_of(self, mask: Any) -> MaskRequest:
        request = request_of(mask)
        if request is None:
            raise RltrError(
                f"{type(self.base).__name__} makes an attention mask without transformers' mask functions, which "
                "cannot follow tokens that leave: this model is not supported"
            )
        return request
