"""Every supported family runs exactly with fewer tokens, and every other one is refused with the reason.

The reference is the model's own forward pass on the whole grid, in which tokens never leave: those that should have
left are hidden from everybody's attention instead, by a plain attention of its own. Nothing of rltr runs in it.
"""

from contextlib import contextmanager

import pytest
import torch
import transformers as hf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from rltr.attention import current
from rltr.backbone import Backbone
from rltr.cost import FlopsCost, LatencyCost, dense, span
from rltr.envs.episodes import row_length
from rltr.errors import RltrError
from rltr.families import FAMILIES, PAIRWISE, REFUSED
from rltr.forward import Choice
from rltr.reduction import Reduction
from rltr.selectors import KeepAll, Selector, baseline
from tests.models_page import PAGE, page
from tests.zoo import ZOO, batch

LAYERS = (1, 3)
CASES = [(name, padding) for name, entry in ZOO.items() for padding in entry.paddings]
cases = pytest.mark.parametrize(("name", "padding"), CASES)
_models: dict[str, hf.PreTrainedModel] = {}


@pytest.fixture
def model(name):
    """A tiny model of the family, made once; fails if the test leaves it changed in any way."""
    if name not in _models:
        _models[name] = ZOO[name].build()
        with torch.no_grad():
            _models[name](**batch(ZOO[name]))  # transformers puts hooks of its own on a model when it first runs
    model = _models[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    native, hooks = model.config._attn_implementation, count_hooks(model)
    yield model
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "weights were changed"
    assert count_hooks(model) == hooks, "hooks were left"
    assert model.config._attn_implementation == native
    assert current.get() is None


def count_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class Replay(Selector):
    """Keeps what masks over the original tokens say, one mask for each decision."""

    def __init__(self, masks):
        self.masks = masks

    def __call__(self, decision):
        return Choice(self.masks[decision.index][decision.tokens.row, decision.tokens.position])


def answer(output):
    """What a model is for: logits, or hidden states where it has no head."""
    return next(output[name] for name in ("logits", "last_hidden_state") if output.get(name) is not None)


def answers(output):
    """All that a model says: what its head and its pooler make of the hidden states, too."""
    names = ("logits", "pooler_output", "last_hidden_state")
    return {name: output[name] for name in names if output.get(name) is not None}


def reduced(model, inputs, chosen, mode="merge", layers=LAYERS, tower=None):
    """The whole output and the trace of the reduced model."""
    backbone = Backbone(model, tower)
    with backbone.attached(), torch.no_grad():
        return Reduction(backbone, chosen, layers, mode)(inputs)


def run(model, inputs, chosen, mode="merge", layers=LAYERS, tower=None):
    """Output and trace of the reduced model."""
    output, trace = reduced(model, inputs, chosen, mode, layers, tower)
    return answer(output), trace


def real(value, trace):
    """The entries of real tokens, where a model answers for every token: what it says about padding is never read."""
    present = trace.stages[0].present
    return value[present] if value.ndim == 3 and value.shape[:2] == present.shape else value


# ---- the reference


class Reference:
    """Who has left, and how many tokens each of the others stands for, in a forward pass on the whole grid."""

    def __init__(self, trace, causal, mode):
        self.present = trace.present
        self.layers = trace.layers
        self.causal = causal
        self.mode = mode
        self.layer = -1
        self.stage = 0
        self.size = torch.ones(self.present.shape[1:])

    def before(self, module, args, kwargs):
        """Average tokens that leave now into the kept ones that are most like them, row by row and token by token."""
        self.layer += 1
        if self.layer not in self.layers:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        before, after = self.present[self.stage], self.present[self.stage + 1]
        self.stage += 1
        if self.mode == "merge":
            hidden = torch.stack(
                [self.merged(r, *row) for r, row in enumerate(zip(hidden, before, after, strict=True))]
            )
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def merged(self, row, hidden, before, after):
        there = before.nonzero()[:, 0].tolist()
        side = {p: place % 2 for place, p in enumerate(there)}
        fixed = set(self.protected[row].nonzero()[:, 0].tolist())
        takers = [p for p in there if after[p] and p not in fixed]
        groups = {p: [p] for p in there if after[p]}
        unit = torch.nn.functional.normalize(hidden - hidden.mean(-1, keepdim=True), dim=-1)
        for p in there:
            if after[p]:
                continue
            possible = [q for q in takers if q > p or not self.causal]
            possible = [q for q in possible if side[q] != side[p]] or possible
            if possible:
                groups[max(possible, key=lambda q: float(unit[q] @ unit[p]))].append(p)
        hidden, size = hidden.clone(), self.size[row].clone()
        for p, group in groups.items():
            hidden[p] = (size[group, None] * hidden[group]).sum(0) / size[group].sum()
            self.size[row, p] = size[group].sum()
        return hidden

    def attention(self, module, query, key, value, attention_mask, scaling=None, is_causal=None, **kwargs):
        """Plain softmax attention in which tokens that have left are hidden, and sizes add their logarithm."""
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        logits = query @ key.transpose(2, 3) * scaling
        if (cap := kwargs.get("softcap")) is not None:
            logits = cap * (logits / cap).tanh()
        if attention_mask is not None:
            logits = logits.masked_fill(~attention_mask, -torch.inf)
        elif getattr(module, "is_causal", True) if is_causal is None else is_causal:
            logits = logits.masked_fill(~torch.ones(logits.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
        if -1 < self.layer < self.depth and logits.shape[-1] == self.present.shape[-1]:
            there = self.present[self.stage]
            bias = self.size.log() if self.mode == "merge" else torch.zeros_like(self.size)
            logits = logits + bias.masked_fill(~there, -torch.inf)[:, None, None]
        if (sinks := kwargs.get("s_aux")) is not None:
            logits = torch.cat([logits, sinks.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)], -1)
        weights = logits.softmax(-1)[..., : key.shape[2]].nan_to_num()  # padding may see nobody
        return (weights @ value).transpose(1, 2), None

    @contextmanager
    def on(self, backbone, protected):
        """Run the model's layers with this attention; ``protected`` tokens take nothing in."""
        self.depth, self.protected = backbone.depth, protected
        AttentionInterface.register("reference", self.attention)
        AttentionMaskInterface.register("reference", sdpa_mask)
        before = backbone.config._attn_implementation
        backbone.root.set_attn_implementation("reference")
        seen = dict.fromkeys(backbone.layers)
        handles = [layer.register_forward_pre_hook(self.before, with_kwargs=True) for layer in seen]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            backbone.root.set_attn_implementation(before)


@contextmanager
def final_grid(backbone):
    """Catch what the last layer gives, every token in its place; the last catch counts."""
    caught = []

    def catch(module, args, output):
        caught.append(output[0] if isinstance(output, tuple) else output)

    handle = backbone.layers[-1].register_forward_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()


class Protected(Selector):
    """Keeps everything and notes which original tokens may not leave."""

    def __call__(self, decision):
        tokens = decision.tokens
        self.mask = torch.zeros_like(tokens.present)
        self.mask[tokens.row, tokens.position] = decision.protected
        return Choice(torch.ones_like(decision.protected))


# ---- what every family must do


@cases
def test_keeping_everything_equals_the_native_forward(model, name, padding):
    inputs = batch(ZOO[name], padding)
    with torch.no_grad():
        native = answers(model(**inputs))
    output, trace = reduced(model, inputs, KeepAll(), layers=(0, 1, 3))
    assert answers(output).keys() == native.keys()
    for key, out in answers(output).items():
        expected, found = real(native[key], trace), real(out, trace)
        # As near as rounding lets two float32 implementations be: hidden states without a head are larger than logits.
        torch.testing.assert_close(found, expected, atol=2e-6 * max(1.0, float(expected.abs().max())), rtol=2e-6)
    with torch.no_grad():
        assert torch.equal(answer(model(**inputs)), answer(native)), "the model is not what it was"


@cases
def test_an_attached_model_that_is_not_reduced_answers_natively(model, name, padding):
    inputs = batch(ZOO[name], padding)
    with torch.no_grad():
        native = answers(model(**inputs))
        with Backbone(model).attached():
            attached = answers(model(**inputs))
    for key, expected in native.items():
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(attached[key], expected, atol=2e-6 * scale, rtol=2e-6)


@pytest.mark.parametrize("mode", ["drop", "merge"])
@cases
def test_fewer_tokens_equal_the_reference_on_the_whole_grid(model, name, padding, mode):
    inputs, backbone = batch(ZOO[name], padding), Backbone(model)
    fixed = Protected()
    run(model, inputs, fixed)
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(len(LAYERS), *fixed.mask.shape, generator=generator) < 0.6
    with final_grid(backbone) as packed:
        out, trace = run(model, inputs, Replay(masks), mode)
    reference = Reference(trace, backbone.family.causal, mode)
    with reference.on(backbone, fixed.mask), final_grid(backbone) as grid, torch.no_grad():
        model(**inputs)
    last = trace.stages[-1]
    kept, expected = packed[-1][last.row, last.position], grid[-1][last.row, last.position]
    torch.testing.assert_close(kept, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=1e-5)
    assert not torch.equal(trace.present[0], trace.present[-1]), "nothing left, so nothing was tested"
    assert out.isfinite().all()


@cases
def test_rows_do_not_depend_on_their_batch_mates(model, name, padding):
    inputs = batch(ZOO[name], padding)
    together, trace = run(model, inputs, baseline("norm", 0.5))
    row = 1
    alone, own = run(model, {key: value[[row]] for key, value in inputs.items()}, baseline("norm", 0.5))
    assert torch.equal(own.present[:, 0], trace.present[:, row])
    expected, found = (real(value, stages) for value, stages in ((together[[row]], trace), (alone, own)))
    if expected.shape != found.shape:  # an answer for every token of all rows
        expected = together[row][trace.stages[0].present[row]]
    torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, float(found.abs().max())), rtol=1e-5)


@cases
def test_bfloat16_loses_no_more_than_bfloat16_does(model, name, padding):
    """Native and ragged forward both round; the one is about as far from float32 as the other."""
    inputs = batch(ZOO[name], padding)
    with torch.no_grad():
        exact = answer(model(**inputs))
    half = ZOO[name].build().bfloat16()
    inputs = {key: value.bfloat16() if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        native = answer(half(**inputs))
    out, trace = run(half, inputs, KeepAll())
    exact, native, out = (real(value, trace) for value in (exact, native, out))
    assert out.dtype == native.dtype
    error = max(float((native - exact).abs().max()), 2**-7 * float(exact.abs().max()))
    assert float((out - exact).abs().max()) <= 2 * error


@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].family.causal])
def test_in_causal_families_nobody_learns_of_what_comes_later(model, name):
    """A change of the last real token changes no earlier kept token, merged or not."""
    inputs = batch(ZOO[name])
    changed = {key: value.clone() for key, value in inputs.items()}
    changed["input_ids"][:, -1] = 7 if ZOO[name].inputs == "texts" else 3
    masks = torch.rand(2, 4, 12, generator=torch.Generator().manual_seed(5)) < 0.5
    masks[:, :, 5] = True
    backbone = Backbone(model)
    with final_grid(backbone) as packed:
        _, trace = run(model, inputs, Replay(masks))
        run(model, changed, Replay(masks))
    last = trace.stages[-1]
    earlier = last.position < 11
    first, second = (grid[last.row[earlier], last.position[earlier]] for grid in packed)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ZOO)
def test_rows_are_padded_where_that_is_proven_and_nowhere_else(name):
    assert ZOO[name].family.padded == (ZOO[name].paddings != ("none",))


@pytest.mark.parametrize("name", ["siglip_text_model"])
def test_hidden_tokens_are_refused_where_the_head_reads_them(model, name):
    """SigLIP's text model reads the last place, whatever the mask says; one that hides nothing is fine."""
    inputs = batch(ZOO[name], "right")
    with pytest.raises(RltrError, match="leave attention_mask out.*padding='max_length'"):
        run(model, inputs, KeepAll())
    mask = inputs.pop("attention_mask")
    for masks in ({}, {"attention_mask": torch.ones_like(mask)}):
        with torch.no_grad():
            native = model(**inputs, **masks).pooler_output
        output, _ = reduced(model, inputs | masks, KeepAll())
        torch.testing.assert_close(output.pooler_output, native, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].family.cached])
def test_a_cache_is_refused_and_never_filled(model, name):
    inputs, backbone = batch(ZOO[name]), Backbone(model)
    with backbone.attached(), torch.no_grad():
        output, _ = Reduction(backbone, KeepAll(), LAYERS)(inputs)
        assert output.get("past_key_values") is None
        with pytest.raises(RltrError, match="use_cache=False"):
            Reduction(backbone, KeepAll(), LAYERS)(inputs | {"use_cache": torch.tensor(True)})


@pytest.mark.parametrize("name", [name for name in ZOO if name != "gpt_oss"])  # experts are refused: they are measured
def test_counted_flops_equal_torchs_own(model, name):
    inputs, backbone = batch(ZOO[name]), Backbone(model)
    paths = {module: path for path, module in model.named_modules()}
    # torch counts no FLOPs for the CPU's fused attention, so it gets the unfused one to count.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(**inputs)
    counted = counter.get_flop_counts()
    cost, counts = FlopsCost.count(backbone.layers), torch.full((4,), float(row_length(backbone, inputs)))
    expected = sum(sum(counted[f"{type(model).__name__}.{paths[layer]}"].values()) for layer in set(backbone.layers))
    assert span(cost, 0, backbone.depth, counts).sum().item() == expected


@pytest.mark.parametrize("name", ZOO)
def test_latency_is_measured_with_all_that_layers_are_called_with(model, name):
    inputs, backbone = batch(ZOO[name]), Backbone(model)
    tokens = row_length(backbone, inputs)
    one = {key: value[:1] for key, value in inputs.items()}
    cost = LatencyCost.measure(backbone, tokens, rows=2, inputs=one, points=2, passes=1)
    assert dense(cost, backbone.depth, tokens) > 0


def test_every_family_is_in_the_zoo():
    assert {entry.config().model_type for entry in ZOO.values()} == FAMILIES.keys() <= ZOO.keys()


def test_a_decoder_that_is_told_to_attend_to_both_sides_is_not_causal():
    """As EmbeddingGemma is: what is dropped may be merged into earlier tokens, and the first one is the reader."""
    causal, both = (Backbone(ZOO[name].build()) for name in ("gemma3_text", "gemma3_text, to both sides"))
    assert causal.family.causal and causal.family.reader == "last"
    assert not both.family.causal and both.family.reader == "first"
    assert both.family.trailing == 1, "a head may still read the last token"


# ---- refusals


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = {**SMALL, "vocab_size": 20}
IMAGE = {**SMALL, "image_size": 16, "patch_size": 4}
STAGES = {
    "image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2,
}  # fmt: skip
SOUND = {
    **SMALL, "conv_dim": (8,), "conv_kernel": (10,), "conv_stride": (5,), "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
UNFIT = {
    "swin": lambda: hf.SwinModel(hf.SwinConfig(**STAGES)),
    "swinv2": lambda: hf.Swinv2Model(hf.Swinv2Config(**STAGES)),
    "t5": lambda: hf.T5EncoderModel(hf.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=20)),
    "mpnet": lambda: hf.MPNetModel(hf.MPNetConfig(**WORDS)),
    "deberta": lambda: hf.DebertaModel(hf.DebertaConfig(**WORDS)),
    "deberta-v2": lambda: hf.DebertaV2Model(hf.DebertaV2Config(**WORDS)),
    "bloom": lambda: hf.BloomModel(hf.BloomConfig(hidden_size=16, n_layer=2, n_head=2, vocab_size=20)),
    "longformer": lambda: hf.LongformerModel(hf.LongformerConfig(**WORDS, attention_window=4)),
    "roformer": lambda: hf.RoFormerModel(hf.RoFormerConfig(**WORDS)),
    "squeezebert": lambda: hf.SqueezeBertModel(hf.SqueezeBertConfig(**WORDS, embedding_size=16)),
    "yolos": lambda: hf.YolosModel(hf.YolosConfig(**IMAGE | {"image_size": [16, 16]}, num_detection_tokens=3)),
    "mamba": lambda: hf.MambaModel(hf.MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=20)),
    "fnet": lambda: hf.FNetModel(
        hf.FNetConfig(hidden_size=16, num_hidden_layers=2, intermediate_size=16, vocab_size=20)
    ),
    "hiera": lambda: hf.HieraModel(
        hf.HieraConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=[32, 32], num_query_pool=1)
    ),
    "mt5": lambda: hf.MT5EncoderModel(
        hf.MT5Config(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=20)
    ),
    "wavlm": lambda: hf.WavLMModel(hf.WavLMConfig(**SOUND)),
    "big_bird": lambda: hf.BigBirdModel(hf.BigBirdConfig(**WORDS)),
    "xlnet": lambda: hf.XLNetModel(hf.XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=16, vocab_size=20)),
    "convnext": lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2)),
    "beit with a bias": lambda: hf.BeitModel(hf.BeitConfig(**IMAGE, use_relative_position_bias=True)),
    "wav2vec2 that sums layers": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**SOUND, use_weighted_layer_sum=True)),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")  # DeBERTa's, before transformers 5.23
@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_work_is_refused_with_the_reason(name):
    model = UNFIT[name]().eval()
    others = {"beit with a bias": PAIRWISE, "wav2vec2 that sums layers": "use_weighted_layer_sum"}
    reason = REFUSED.get(name) or others[name]
    with pytest.raises(RltrError, match="is not supported") as error:
        Backbone(model)
    assert type(model).__name__ in str(error.value)
    assert reason in str(error.value)


def test_every_refused_family_has_a_model_here():
    assert REFUSED.keys() <= UNFIT.keys()


@pytest.mark.parametrize("padding", ["none", "right"])
def test_the_last_token_that_is_no_padding_stays(padding):
    """Transformers' classifiers read it, whatever the mask says."""
    model = ZOO["llama"].build()
    inputs = {"input_ids": batch(ZOO["llama"])["input_ids"].clone()}
    ends = [5, 7, 9, inputs["input_ids"].shape[1]]
    for row, end in enumerate(ends):
        inputs["input_ids"][row, end:] = model.config.pad_token_id
    if padding == "right":  # a text may itself end with the token that stands for padding
        inputs["attention_mask"] = (torch.arange(inputs["input_ids"].shape[1]) < torch.tensor(ends)[:, None] + 1).long()
    fixed = Protected()
    run(model, inputs, fixed)
    assert all(fixed.mask[row, end - 1] for row, end in enumerate(ends))


def test_no_family_is_both_supported_and_refused():
    assert not FAMILIES.keys() & REFUSED.keys()


def test_the_page_of_models_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.models_page"
