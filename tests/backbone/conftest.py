"""Selectors, models and a simple reference of the reduced forward pass, one row at a time."""

import copy
from contextlib import contextmanager

import pytest
import torch
import transformers as hf
from torch import nn

from rltr.runtime.attention import current
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice
from rltr.selectors import BASELINES, KeepAll, Selector, baseline
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks import TensorExamples
from tests.conftest import TEXT

LAYERS = (1, 3)
DEPTH = 4
MODES = ("merge", "drop")
# Every selector in every mode. ToMe merges by definition, but tokens that it does not keep can be dropped, too.
MATRIX = [(name, mode) for name in ("none", *BASELINES) for mode in MODES]
matrix = pytest.mark.parametrize(("name", "mode"), MATRIX)
modes = pytest.mark.parametrize("mode", MODES)


def selector(name, keep_rate=0.5):
    return KeepAll() if name == "none" else baseline(name, keep_rate)


class Replay(Selector):
    """Keeps tokens by masks over the original tokens, one mask per decision."""

    def __init__(self, masks):
        self.masks = masks

    def __call__(self, decision):
        return Choice(self.masks[decision.index][decision.tokens.row, decision.tokens.position])


class Recorder(Selector):
    """Runs another selector and records its choices by original position."""

    def __init__(self, inner):
        self.inner = inner
        self.masks, self.into = [], []

    def check(self, backbone, layers):
        self.inner.check(backbone, layers)

    def __call__(self, decision):
        choice, tokens = self.inner(decision), decision.tokens
        mask = torch.zeros_like(tokens.present)
        mask[tokens.row, tokens.position] = choice.keep
        self.masks.append(mask)
        into: list[dict[int, int]] = [{} for _ in tokens.counts]
        if choice.into is not None:
            for p, partner in zip((~choice.keep).nonzero()[:, 0], choice.into, strict=True):
                into[tokens.row[p]][int(tokens.position[p])] = int(tokens.position[partner])
        self.into.append(into)
        return choice


class Boom(Selector):
    """Fails at its second decision."""

    def __call__(self, decision):
        if decision.index == 1:
            raise ZeroDivisionError("boom")
        return Choice(decision.protected)


def random_masks(case, seed=0, share=0.5, decisions=2):
    """A random mask for each decision; it may also remove protected tokens."""
    return torch.rand(decisions, *case.present.shape, generator=torch.Generator().manual_seed(seed)) < share


@contextmanager
def last_hidden_state(model):
    """Record the base model's ``last_hidden_state``, the input of the head."""
    caught = []
    handle = model.base_model.register_forward_hook(lambda module, args, out: caught.append(out.last_hidden_state))
    try:
        yield caught
    finally:
        handle.remove()


def entering(args, kwargs):
    """The hidden states a layer was called with."""
    return args[0] if args else kwargs["hidden_states"]


def before_layer(model, layer, inputs):
    """The hidden states that enter a layer of the model itself."""
    caught = []
    handle = (
        Backbone(model)
        .layers[layer]
        .register_forward_pre_hook(lambda module, args, kwargs: caught.append(entering(args, kwargs)), with_kwargs=True)
    )
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return caught[0]


def native(case, rows=slice(None)):
    """Logits and last hidden state of the model itself."""
    with torch.no_grad(), last_hidden_state(case.model) as states:
        logits = case.model(**{name: value[rows] for name, value in case.inputs.items()}).logits
    return logits, states[0]


def reduced(case, chosen, mode="merge", inputs=None, layers=LAYERS):
    """Logits, last hidden state and trace of the reduced model."""
    backbone = Backbone(case.model)
    with backbone.attached(), torch.no_grad(), last_hidden_state(case.model) as states:
        output, trace = ReducedModel(backbone, chosen, layers, mode)(case.inputs if inputs is None else inputs)
    return output["logits"], states[0], trace


def most_similar(value, p, others):
    """The one of ``others`` whose centred value has the largest cosine with that of ``p``."""
    centred = {q: value[q] - value[q].mean() for q in (p, *others)}
    return max(others, key=lambda q: torch.cosine_similarity(centred[p], centred[q], 0).item())


def reference(case, row, masks, mode, into=None, layers=LAYERS):
    """A plain, slow reduced forward pass of one row: native layers on the kept tokens of that row alone.

    Tokens are dictionary entries by original position; a bias mask adds the logarithm of sizes to attention logits. At
    the end every original token gets the hidden state of its representative.
    """
    model, modules = case.model, Backbone(case.model).layers
    inputs = {name: value[row : row + 1] for name, value in case.inputs.items()}
    grid = before_layer(model, 0, inputs)[0].clone()
    there = case.present[row].nonzero()[:, 0].tolist()
    at_first, representative = list(there), {}
    value = {p: grid[p] for p in there}
    size = dict.fromkeys(there, 1.0)
    for index, layer in enumerate(modules):
        if index in layers:
            mask = masks[layers.index(index)][row]
            stay = [p for place, p in enumerate(there) if place < case.leading or mask[p]]
            set_of = {p: place % 2 for place, p in enumerate(there)}
            groups = {p: [p] for p in stay}
            for p in (p for p in there if p not in groups):
                if into is not None and p in into[layers.index(index)][row]:
                    representative[p] = into[layers.index(index)][row][p]
                elif others := [q for q in stay[case.leading :] if set_of[q] != set_of[p]] or stay[case.leading :]:
                    representative[p] = most_similar(value, p, others)
                else:  # it has no merge partner, but still a representative
                    representative[p] = most_similar(value, p, stay)
                    continue
                groups[representative[p]].append(p)
            if mode == "merge":
                merged = {q: sum(size[p] * value[p] for p in group) for q, group in groups.items()}
                size = {q: sum(size[p] for p in group) for q, group in groups.items()}
                value = {q: merged[q] / size[q] for q in stay}
            there = stay
        stacked = torch.stack([value[p] for p in there])[None]
        bias = torch.tensor([size[p] for p in there]).log().expand(1, 1, len(there), len(there))
        with torch.no_grad():
            out = layer(stacked, attention_mask=bias if mode == "merge" else None)
        value = dict(zip(there, (out[0] if isinstance(out, tuple) else out)[0], strict=True))
    for p in range(len(grid)):
        place = p if p in at_first else at_first[0]  # padding: the pooled token
        while place in representative:
            place = representative[place]
        grid[p] = value[place]
    handle = modules[-1].register_forward_hook(
        lambda module, args, out: (grid[None], *out[1:]) if isinstance(out, tuple) else grid[None]
    )
    with torch.no_grad(), last_hidden_state(model) as states:
        logits = model(**inputs).logits
    handle.remove()
    return logits[0], states[0][0]


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


SMALL = {"num_key_value_heads": 1, "head_dim": 8}
DECODERS = {
    "llama": (hf.LlamaForSequenceClassification, hf.LlamaConfig(**TEXT, num_key_value_heads=1)),
    "qwen2": (hf.Qwen2ForSequenceClassification, hf.Qwen2Config(**TEXT, num_key_value_heads=1)),
    "gemma2": (hf.Gemma2ForSequenceClassification, hf.Gemma2Config(**TEXT, **SMALL, sliding_window=5)),
    "opt": (
        hf.OPTForSequenceClassification,
        hf.OPTConfig(**{k: v for k, v in TEXT.items() if k != "intermediate_size"}, ffn_dim=64, word_embed_proj_dim=32),
    ),
    "gpt_neox": (hf.GPTNeoXForSequenceClassification, hf.GPTNeoXConfig(**TEXT)),
}


class Wrapper(nn.Module):
    """A user's module around a model."""

    def __init__(self, inner, how):
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, **inputs):
        return self.how(self.inner, inputs)


PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(tiny_vit):
    """A copy of ``tiny_vit`` that a test may change."""
    return copy.deepcopy(tiny_vit)


def examples():
    return TensorExamples(
        torch.arange(4) % 3, list("abcd"), ["a", "b", "c"], {"pixel_values": torch.randn(4, 3, 16, 16)}
    )


def untouched(model):
    """Whether nothing of rltr is left on the model."""
    return (
        current.get() is None
        and model.config._attn_implementation == "sdpa"
        and not any("forward" in vars(module) for module in model.modules())
        and not any(name.startswith("_rltr") for module in model.modules() for name in vars(module))
    )
