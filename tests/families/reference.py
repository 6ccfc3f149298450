"""The reference for a reduced pass: the model's own forward pass on all tokens.

A plain attention function masks the keys of removed tokens. After the last layer these tokens get the hidden state of
their representative. No code of rltr's runtime runs in it.
"""

from contextlib import contextmanager

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from rltr.runtime.attention import attends_causally
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice
from rltr.selectors import Selector
from rltr.selectors.reduced_model import ReducedModel
from tests.families.conftest import answer

LAYERS = (1, 3)


class Replay(Selector):
    """Keeps the tokens in given masks over the original tokens, one mask for each decision."""

    def __init__(self, masks):
        self.masks = masks

    def __call__(self, decision):
        return Choice(self.masks[decision.index][decision.tokens.row, decision.tokens.position])


def reduced(model, inputs, chosen, mode="merge", layers=LAYERS, tower=None):
    """The whole output and the trace of the reduced model."""
    backbone = Backbone(model, tower)
    with backbone.attached(), torch.no_grad():
        return ReducedModel(backbone, chosen, layers, mode)(inputs)


def run(model, inputs, chosen, mode="merge", layers=LAYERS, tower=None):
    """Output and trace of the reduced model."""
    output, trace = reduced(model, inputs, chosen, mode, layers, tower)
    return answer(output), trace


class Protected(Selector):
    """Keeps every token and records a mask of the protected ones."""

    def __call__(self, decision):
        tokens = decision.tokens
        self.mask = torch.zeros_like(tokens.present)
        self.mask[tokens.row, tokens.position] = decision.protected
        return Choice(torch.ones_like(decision.protected))


class Reference:
    """Removed tokens, sizes and representatives in a forward pass on all tokens."""

    def __init__(self, trace, causal, mode):
        self.present = trace.present
        self.layers = trace.layers
        self.causal = causal
        self.mode = mode
        self.layer = -1
        self.stage = 0
        self.size = torch.ones(self.present.shape[1:])
        rows, grid = self.size.shape
        self.representative = torch.arange(grid).repeat(rows, 1)

    def before(self, module, args, kwargs):
        """Apply the decision before a layer: find representatives of removed tokens, and average merged tokens."""
        self.layer += 1
        if self.layer not in self.layers:
            return None
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        before, after = self.present[self.stage], self.present[self.stage + 1]
        self.stage += 1
        for row in range(len(hidden)):
            hidden[row] = self.merge_row(row, hidden[row], before[row], after[row])
        if self.mode == "drop":
            return None
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def merge_row(self, row, hidden, before, after):
        there = before.nonzero()[:, 0].tolist()
        staying = [p for p in there if after[p]]
        set_of = {p: place % 2 for place, p in enumerate(there)}
        fixed = set(self.protected[row].nonzero()[:, 0].tolist())
        takers = [p for p in staying if p not in fixed]
        groups = {p: [p] for p in staying}
        unit = torch.nn.functional.normalize(hidden - hidden.mean(-1, keepdim=True), dim=-1)
        for p in there:
            if after[p]:
                continue
            possible = [q for q in takers if q > p or not self.causal]
            possible = [q for q in possible if set_of[q] != set_of[p]] or possible
            # A token without a merge partner is represented by its most similar token.
            nearest = max(possible or staying, key=lambda q: float(unit[q] @ unit[p]))
            self.representative[row][self.representative[row] == p] = nearest
            if possible:
                groups[nearest].append(p)
        hidden, size = hidden.clone(), self.size[row].clone()
        for p, group in groups.items():
            hidden[p] = (size[group, None] * hidden[group]).sum(0) / size[group].sum()
            self.size[row, p] = size[group].sum()
        return hidden

    def after(self, module, args, output):
        """After the last layer, give every token the hidden state of its representative."""
        if self.layer + 1 < self.depth:
            return None
        self.layer += 1  # the head sees all tokens
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = torch.stack([state[place] for state, place in zip(hidden, self.representative, strict=True)])
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def attention(self, module, query, key, value, attention_mask, scaling=None, is_causal=None, **kwargs):
        """Plain softmax attention in which removed tokens are masked, and sizes add their logarithm."""
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        logits = query @ key.transpose(2, 3) * scaling
        if (cap := kwargs.get("softcap")) is not None:
            logits = cap * (logits / cap).tanh()
        if attention_mask is not None:
            logits = logits.masked_fill(~attention_mask, -torch.inf)
        elif attends_causally(module, is_causal):
            logits = logits.masked_fill(~torch.ones(logits.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
        if -1 < self.layer < self.depth and logits.shape[-1] == self.present.shape[-1]:
            there = self.present[self.stage]
            bias = self.size.log() if self.mode == "merge" else torch.zeros_like(self.size)
            logits = logits + bias.masked_fill(~there, -torch.inf)[:, None, None]
        if (sinks := kwargs.get("s_aux")) is not None:
            logits = torch.cat([logits, sinks.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)], -1)
        weights = logits.softmax(-1)[..., : key.shape[2]].nan_to_num()  # a padding query may have no key
        return (weights @ value).transpose(1, 2), None

    @contextmanager
    def on(self, backbone, protected):
        """Run the model's layers with this attention; nothing is merged into ``protected`` tokens."""
        self.depth, self.protected = backbone.depth, protected
        AttentionInterface.register("reference", self.attention)
        AttentionMaskInterface.register("reference", sdpa_mask)
        before = backbone.config._attn_implementation
        backbone.root.set_attn_implementation("reference")
        seen = dict.fromkeys(backbone.layers)
        handles = [layer.register_forward_pre_hook(self.before, with_kwargs=True) for layer in seen]
        handles.append(backbone.layers[-1].register_forward_hook(self.after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            backbone.root.set_attn_implementation(before)


@contextmanager
def final_grid(backbone):
    """Record the output of the last layer for all tokens, at each of its calls."""
    caught = []

    def catch(module, args, output):
        caught.append(output[0] if isinstance(output, tuple) else output)

    handle = backbone.layers[-1].register_forward_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()
