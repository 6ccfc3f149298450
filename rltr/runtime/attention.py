"""The attention implementation ``"rltr"`` of transformers: ragged inside of a reduced forward pass, native outside.

Without a ragged batch in the current context the functions are transformers' own ``sdpa``, so a model that carries them
behaves as usual in other threads, in other greenlets and in evaluations during a rollout.
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
"""Name under which transformers knows this attention."""
_NOTE = "rltr_request"
_both_sides: WeakSet[nn.Module] = WeakSet()


@dataclass
class Stream:
    """The token stream of one forward pass, as its layers see it.

    Attributes:
        tokens: the ragged batch between the first and the last layer, None outside of them.
        allowed: mask function of the layer that runs; None if the model made no mask.
        pooled: which token of a row the model's head reads.
        backend: how uneven rows are computed.
    """

    tokens: Tokens | None = None
    allowed: Allowed | None = None
    pooled: PooledToken = "first"
    backend: Backend = "auto"
    _plan: Plan | None = field(default=None, repr=False)

    def plan(self) -> Plan:
        """How attention of the tokens is computed: worked out by the first layer after a decision, for all of them."""
        assert self.tokens is not None
        if self._plan is None or self._plan.tokens is not self.tokens:
            self._plan = Plan(self.tokens, self.backend)
        return self._plan

    def on_attention(self, attended: Attended) -> None:
        """Called with what every ragged attention works on."""


current: ContextVar[Stream | None] = ContextVar("rltr_stream", default=None)
"""The forward pass of this thread or greenlet that rltr runs; None lets layers and attention pass everything on."""


@dataclass(frozen=True)
class MaskRequest:
    """The mask function and the padding that a model requested, kept with the mask that it got.

    Attributes:
        allowed: mask function (which query may attend to which key), without padding.
        present: which tokens are not padding; None if all are there.
    """

    allowed: Allowed
    present: Tensor | None


def request_of(mask: Any) -> MaskRequest | None:
    """What was requested of a mask that :func:`mask` made; None for any other mask."""
    return getattr(mask, _NOTE, None)


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
    """The attention function that transformers calls.

    With a ragged batch, ``batch`` is 1 and ``length`` its packed tokens, or, when all rows have equally many,
    the rows and their tokens. No attention weights are computed where a fused kernel can do without.
    """
    stream = current.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if stream is None or stream.tokens is None:
        if softcap is None and s_aux is None:
            is_causal = False if module in _both_sides else is_causal
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
            )
        # sdpa can do neither, so models that need them have no native sdpa path to fall back to. The native mask relies
        # on sdpa's own way to be causal: where that would do, there is none.
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
            f"{type(module).__name__} gives attention a mask or a bias of its own making, which cannot follow tokens "
            "that leave: this model is not supported"
        )
    if dropout:
        raise RltrError(f"{type(module).__name__} drops attention weights at random: call model.eval()")
    allowed = stream.allowed
    if allowed is None and attends_causally(module, is_causal):
        allowed = causal_mask_function  # what sdpa does without a mask
    stream.on_attention(Attended(query, key, scale, stream.tokens, stream.pooled))
    return ragged_attention(query, key, value, stream.plan(), scale, Pattern(allowed, softcap, s_aux)), None


def attends_causally(module: nn.Module, said: bool | None) -> bool:
    """Whether a module attends causally where it has no mask, by transformers' rule.

    That rule is sdpa's: causal, unless the module says otherwise. The modules of :func:`attend_to_both_sides` were
    written for eager attention, where every token is attended to if there is no mask.
    """
    if said is None:
        said = getattr(module, "is_causal", module not in _both_sides)
    return bool(said)


def attend_to_both_sides(modules: Iterable[nn.Module]) -> None:
    """Note that those of ``modules`` which do not say whether they are causal are not."""
    _both_sides.update(module for module in modules if not hasattr(module, "is_causal"))


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
    """The mask function that goes with :func:`attention`: native sdpa's mask, with a note of the :class:`MaskRequest`.

    The native mask, because other parts of a model (a decoder beside the encoder that is reduced) use it as it is.
    """
    native = sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask=attention_mask, **kwargs
    )
    if native is not None and current.get() is not None:
        # A tensor of its own: an attribute on one that others share would outlive this pass.
        native = native.view(native.shape)
        setattr(native, _NOTE, MaskRequest(mask_function, attention_mask))
    return native


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, mask)
