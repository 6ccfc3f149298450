"""One reduced forward pass: pack tokens before the first layer, remove some at decision layers, unpack after the last.

The model's own ``forward`` runs, unedited; :class:`Forward` is called before and after each layer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import PreTrainedConfig

from rltr.errors import RltrError
from rltr.runtime import tokens as ragged
from rltr.runtime.attended import Attended
from rltr.runtime.attention import MaskRequest, Stream, current
from rltr.runtime.decision import Decide, Decision, Removal, Trace
from rltr.runtime.departure import remove_tokens
from rltr.runtime.families import NO_ATTENTION, OWN_ATTENTION, Family
from rltr.runtime.kernels import Backend
from rltr.runtime.tokens import Tokens


@runtime_checkable
class Owner(Protocol):
    """The interface of :class:`rltr.Backbone` that a forward pass uses."""

    family: Family
    config: PreTrainedConfig
    attention: Backend

    @property
    def depth(self) -> int:
        """Number of layers."""
        ...

    def runs(self, layer: nn.Module) -> bool:
        """Whether ``layer`` belongs to this backbone."""
        ...

    def run_base(
        self, forward: "Forward", native: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run the submodule that runs the layers."""
        ...

    def run_layer(
        self,
        forward: "Forward",
        layer: nn.Module,
        native: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Run one layer."""
        ...

    def refuse_policy(self) -> None:
        """Raise if a policy is attached."""
        ...


class Forward(Stream):
    """The token stream of one reduced forward pass.

    Args:
        owner: the backbone whose layers this pass runs; layers of other models run natively.
        decide: called at every decision layer.
        layers: the decision layers in ascending order.
        removal: whether removed tokens are merged or dropped.

    Attributes:
        layer: the layer that runs or ran last; -1 before the first.
        also_protected: further tokens that must stay, or None.
        refuses_hidden: whether to refuse an attention mask that hides a token of ``also_protected``, because the
            model's head reads that token despite the mask.
        on_grid_between_layers: whether each layer returns hidden states for all original tokens, because the call
            records them. It costs a gather before and after each layer.
    """

    def __init__(self, owner: Owner, decide: Decide, layers: Sequence[int], removal: Removal) -> None:
        super().__init__(pooled=owner.family.pooled, backend=owner.attention)
        if removal not in get_args(Removal):
            raise RltrError(f"removal={removal!r} is unknown: choose one of {', '.join(get_args(Removal))}")
        self.owner = owner
        self.decide = decide
        self.layers = tuple(layers)
        self.removal = removal
        self.family = owner.family
        self.leading = owner.family.leading_tokens(owner.config)
        self.model_type = owner.config.model_type
        self.on_grid_between_layers = False
        self.refuses_hidden = True
        self.layer = -1
        self.also_protected: Bool[Tensor, "rows grid"] | None = None
        self.attended: Attended | None = None
        self.stages: list[Tokens] = []
        self._protected: Bool[Tensor, " total"] | None = None
        self._representative: Int[Tensor, " begun"] | None = None
        self._attention_ran = False
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def trace(self) -> Trace:
        """Which tokens were kept; complete once the forward pass has ended."""
        return Trace(tuple(self.stages), self.layers)

    def before_layer(
        self, hidden: Float[Tensor, "batch length width"], mask: MaskRequest | None
    ) -> Float[Tensor, "batch_ length_ width"]:
        """Return the next layer's input: pack before the first layer, and apply a decision before a decision layer.

        Args:
            hidden: the hidden states that the model passes to the layer.
            mask: the mask that the model requested for the layer; None for no mask.
        """
        self.layer += 1
        self.allowed = None if mask is None else mask.allowed
        if self.layer == 0:
            hidden = self._pack(hidden, None if mask is None else mask.present)
        elif self.on_grid_between_layers:
            tokens = self._tokens()
            hidden = self._shaped(hidden.flatten(0, 1).index_select(0, tokens.grid_index))
        if self.layer in self.layers:
            hidden = self._decide(hidden.flatten(0, 1))
        self._attention_ran = False
        return hidden

    def on_attention(self, attended: Attended) -> None:
        """Keep queries and keys if the next layer is a decision layer, whose selector may read them."""
        self._attention_ran = True
        self.attended = attended if self.layer + 1 in self.layers else None

    def after_layer(self, hidden: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch_ length_ width"]:
        """Return the layer's output; after the last layer, hidden states for all original tokens.

        A removed token gets the hidden state of its representative. So a mean over all original tokens is the mean
        over the kept tokens, weighted by how many original tokens each represents.

        Raises:
            RltrError: if the layer did not call transformers' attention interface.
        """
        if not self._attention_ran:
            raise RltrError(
                f"layer {self.layer} of this {self.model_type} ran without transformers' attention interface: "
                f"{NO_ATTENTION}, or {OWN_ATTENTION}; it cannot be run with fewer tokens"
            )
        last = self.layer + 1 == self.owner.depth
        if last or self.on_grid_between_layers:
            hidden = self._on_grid(hidden)
        if last:
            self.tokens = None
            self._gathered.clear()
        return hidden

    def _on_grid(self, hidden: Float[Tensor, "batch length width"]) -> Float[Tensor, "rows grid width"]:
        """Hidden states of all original tokens, each from its representative."""
        tokens = self._tokens()
        if tokens.uniform == tokens.grid:
            return hidden
        begun, source = self.stages[0], self._representative
        if source is None:
            source = torch.arange(tokens.total, device=hidden.device)
        if begun.uniform != begun.grid:
            # Padding gets the hidden state of its row's pooled token, which is finite and of the same layer.
            padding = tokens.pooled(self.pooled).repeat_interleave(begun.grid)
            source = padding.index_copy_(0, begun.grid_index, source)
        return hidden.flatten(0, 1).index_select(0, source).view(len(tokens.counts), tokens.grid, -1)

    def gather_kept(self, value: Any) -> Any:
        """Gather the kept tokens from every tensor in ``value`` that has a token axis; return all else unchanged.

        Args:
            value: an argument of a layer; tensors in tuples are gathered, too.
        """
        if isinstance(value, tuple):
            return tuple(self.gather_kept(part) for part in value)
        tokens = self._tokens()
        if not isinstance(value, Tensor) or value.ndim < 2 or tokens.uniform == tokens.grid:
            return value
        if value.shape[1] == tokens.grid and value.shape[0] in (1, len(tokens.counts)):
            return self._gather_once(value, lambda: self._gather(value))
        return value

    def gather_rotary(
        self, cosine: Float[Tensor, "patches width"], sine: Float[Tensor, "patches width"]
    ) -> tuple[Tensor, Tensor]:
        """Gather rotary embeddings that the model made for patches only; leading tokens are not rotated."""
        if self._tokens().uniform == self._tokens().grid:
            return cosine, sine
        leading = (0, 0, self.leading, 0)
        return (
            self._gather_once(cosine, lambda: self._gather(F.pad(cosine, leading, value=1.0)[None]).unsqueeze(1)),
            self._gather_once(sine, lambda: self._gather(F.pad(sine, leading, value=0.0)[None]).unsqueeze(1)),
        )

    def _gather_once(self, value: Tensor, gather: Callable[[], Tensor]) -> Tensor:
        """Gather ``value`` once per decision, because all layers are called with the same tensor."""
        known = self._gathered.get(id(value))
        if known is None or known[0] is not value:
            known = self._gathered[id(value)] = (value, gather())
        return known[1]

    def _gather(self, values: Shaped[Tensor, "rows_or_1 grid *rest"]) -> Shaped[Tensor, "batch length *rest"]:
        """Select the kept tokens from ``values`` with one entry per original token, in the layout of the layers."""
        tokens = self._tokens()
        if len(values) == 1:
            return self._shaped(values[0].index_select(0, tokens.position))
        return self._shaped(values.flatten(0, 1).index_select(0, tokens.grid_index))

    def _tokens(self) -> Tokens:
        assert self.tokens is not None, "there is a ragged batch only between the first and the last layer"
        return self.tokens

    def _pack(self, hidden: Tensor, present: Tensor | None) -> Tensor:
        rows, grid, _ = hidden.shape
        if present is None or bool(present.all()):
            self.tokens = ragged.full_batch(rows, grid, hidden.device)
        else:
            if not self.family.padded:
                raise RltrError(
                    f"attention_mask hides tokens, but {self.model_type} takes rows of one length only: its head may "
                    "read masked positions, as SigLIP's reads the last one; leave attention_mask out, and pad texts to "
                    "the length the model was trained with (padding='max_length')"
                )
            present = present.bool()
            self.tokens = ragged.pack(present)
            if self.also_protected is not None and self.refuses_hidden and bool((self.also_protected & ~present).any()):
                raise RltrError(
                    "attention_mask hides a token that the model's head reads: the head finds it by input_ids and the "
                    "config's padding token (without input_ids, it reads the last position), not by the mask. Pad "
                    "with config.pad_token_id, pass input_ids rather than inputs_embeds, or pad on the left"
                )
            begins = present.any(1) if self.family.left_padding else present[:, : self.leading]
            if not bool(begins.all()):
                raise RltrError(
                    "attention_mask hides the start of a row, which the model's head reads: put padding at the end "
                    "(tokenizer.padding_side = 'right'), and leave out inputs without any token"
                    if not self.family.left_padding
                    else "attention_mask hides a whole row: leave out inputs without any token"
                )
            hidden = self._gather(hidden)  # by index: a boolean mask would synchronise an accelerator once more
        self.stages.append(self.tokens)
        return hidden

    def _first_protected(self) -> Bool[Tensor, " total"]:
        """Protected tokens before the first decision."""
        tokens = self._tokens()
        protected = tokens.slot < self.leading
        if self.family.trailing:
            protected = protected | (tokens.slot >= tokens.count[tokens.row] - self.family.trailing)
        if self.also_protected is not None:
            protected = protected | self.also_protected.flatten().index_select(0, tokens.grid_index)
        return protected

    def _decide(self, hidden: Float[Tensor, "total width"]) -> Tensor:
        tokens = self._tokens()
        protected = self._first_protected() if self._protected is None else self._protected
        decision = Decision(
            index=len(self.stages) - 1,
            layer=self.layer,
            hidden=hidden,
            tokens=tokens,
            protected=protected,
            begun=self.stages[0].count,
            attended=self.attended,
            causal=self.family.causal,
        )
        # A selector may run models, even this one; those calls are not part of this forward pass.
        reset = current.set(None)
        try:
            choice = self.decide(decision)
        finally:
            current.reset(reset)
        kept = choice.keep | protected
        left = remove_tokens(decision, kept, choice.into, self.removal)
        if left is not None:
            hidden, self.tokens = left.hidden, left.tokens
            new, old = left.representative, self._representative
            self._representative = new if old is None else new.index_select(0, old)
            protected = protected.index_select(0, left.kept)
            self._gathered.clear()
        self._protected = protected
        self.stages.append(self._tokens())
        return self._shaped(hidden)

    def _shaped(self, packed: Shaped[Tensor, "total *rest"]) -> Shaped[Tensor, "batch length *rest"]:
        """Give packed tokens the layers' layout: ``(rows, tokens)`` if all rows have the same length, else one row."""
        tokens = self._tokens()
        if tokens.uniform is not None:
            return packed.view(len(tokens.counts), tokens.uniform, *packed.shape[1:])
        return packed[None]
