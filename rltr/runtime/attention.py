"""The attention implementation ``"rltr"`` for transformers: ragged inside a reduced forward pass, ``sdpa`` elsewhere.

The ragged batch is in a context variable. Where it is not set, the functions call transformers' own ``sdpa``. So a
model with this implementation behaves as usual in other threads, other greenlets, and evaluations during a rollout.
"""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from rltr.errors import RltrError
from rltr.runtime.attended import Attended
from rltr.runtime.families import PooledToken
from rltr.runtime.kernels import Backend, Plan, ragged_attention, unfused
from rltr.runtime.pattern import Allowed, Pattern
from rltr.runtime.tokens import Tokens

IMPLEMENTATION = "rltr"
"""Name under which this attention is registered with transformers."""
_REQUEST_ATTRIBUTE = "rltr_request"
_bidirectional: WeakSet[nn.Module] = WeakSet()


@dataclass
class Stream:
    """What attention needs to know about one reduced forward pass.

    Attributes:
        tokens: the ragged batch between the first and the last layer; None before and after.
        allowed: mask function of the current layer; None if the model made no mask.
        pooled: which token of a row the model's head reads.
        backend: attention backend for rows of different lengths.
    """

    tokens: Tokens | None = None
    allowed: Allowed | None = None
    pooled: PooledToken = "first"
    backend: Backend = "auto"
    _plan: Plan | None = field(default=None, repr=False)

    def plan(self) -> Plan:
        """The attention plan for the current tokens. It is made once per decision and shared by the layers after it."""
        assert self.tokens is not None
        if self._plan is None or self._plan.tokens is not self.tokens:
            self._plan = Plan(self.tokens, self.backend)
        return self._plan

    def on_attention(self, attended: Attended) -> None:
        """Receive queries and keys of every ragged attention; the base class ignores them."""


current: ContextVar[Stream | None] = ContextVar("rltr_stream", default=None)
"""The reduced forward pass that runs in this thread or greenlet; if None, layers and attention run natively."""


@dataclass(frozen=True)
class MaskRequest:
    """The mask function and padding mask with which a model requested an attention mask.

    Attributes:
        allowed: mask function (which query may attend to which key), without padding.
        present: padding mask, True for tokens; None if there is no padding.
    """

    allowed: Allowed
    present: Tensor | None


def request_of(mask: Any) -> MaskRequest | None:
    """The request from which :func:`mask` made ``mask``; None for a mask made elsewhere."""
    return getattr(mask, _REQUEST_ATTRIBUTE, None)


def attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch key_heads keys width"],
    value: Float[Tensor, "batch key_heads keys value_width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " heads"] | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch length heads value_width"], None]:
    """Compute attention; transformers calls this function.

    Inside a reduced forward pass, ``batch`` is 1 and ``length`` the number of packed tokens; if all rows have the same
    number of tokens, they are the number of rows and the tokens per row. Attention weights are computed only for models
    that need softcapping or sinks and have no fused kernel for them.

    Raises:
        RltrError: if the module passes a bias, a mask of its own, or attention dropout.
    """
    stream = current.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if stream is None or stream.tokens is None:
        if softcap is None and s_aux is None:
            is_causal = False if module in _bidirectional else is_causal
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
            )
        # sdpa supports neither softcapping nor sinks, so these models have no native sdpa path to fall back to. The
        # mask is None where sdpa's ``is_causal`` would be enough, so it is made here.
        if attention_mask is None and query.shape[2] > 1 and attends_causally(module, is_causal):
            attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        out = unfused(query, key, value, attention_mask, scale, Pattern(None, softcap, s_aux))
        return out.transpose(1, 2), None
    if kwargs.get("position_bias") is not None:
        raise RltrError(
            f"{type(module).__name__} adds a bias for every pair of positions inside of its attention, which cannot "
            "follow tokens that leave: this model is not supported"
        )
    if attention_mask is not None:
        raise RltrError(
            f"{type(module).__name__} passes attention a mask or a bias of its own, which cannot follow tokens "
            "that leave: this model is not supported"
        )
    if dropout:
        raise RltrError(f"{type(module).__name__} drops attention weights at random: call model.eval()")
    allowed = stream.allowed
    if allowed is None and attends_causally(module, is_causal):
        allowed = causal_mask_function  # as sdpa does without a mask
    stream.on_attention(Attended(query, key, scale, stream.tokens, stream.pooled))
    return ragged_attention(query, key, value, stream.plan(), scale, Pattern(allowed, softcap, s_aux)), None


def attends_causally(module: nn.Module, is_causal: bool | None) -> bool:
    """Whether a module without a mask attends causally, by the rule of transformers' sdpa attention.

    By that rule it does, unless its attribute ``is_causal`` is False. Modules passed to :func:`mark_bidirectional`
    are exceptions: they were written for eager attention, which without a mask attends to every token.

    Args:
        module: the attention module.
        is_causal: the argument of the attention call; None if it was not given.
    """
    if is_causal is None:
        is_causal = getattr(module, "is_causal", module not in _bidirectional)
    return bool(is_causal)


def mark_bidirectional(modules: Iterable[nn.Module]) -> None:
    """Mark those of ``modules`` that have no attribute ``is_causal`` as bidirectional."""
    _bidirectional.update(module for module in modules if not hasattr(module, "is_causal"))


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Allowed = causal_mask_function,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor | None:
    """Make sdpa's mask, with the :class:`MaskRequest` as an attribute; transformers calls this function.

    The mask itself is still needed by parts of the model that are not reduced, such as the decoder beside a reduced
    encoder.
    """
    native = sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask=attention_mask, **kwargs
    )
    if native is not None and current.get() is not None:
        # A new view, because sdpa_mask may return a shared tensor, on which the attribute would outlive this pass.
        native = native.view(native.shape)
        setattr(native, _REQUEST_ATTRIBUTE, MaskRequest(mask_function, attention_mask))
    return native


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, mask)
