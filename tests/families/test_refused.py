"""Unsupported models are refused with the reason, and the documented list of families is the tested one."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers as hf
from transformers import CONFIG_MAPPING

from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.families import (
    FAMILIES,
    NO_ATTENTION,
    NOT_ONLY_ATTENTION,
    OWN_ATTENTION,
    OWN_MASK,
    PAIRWISE,
    REFUSED,
)
from tests.models_page import PAGE, page

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
UNFIT: dict[str, Callable[[], hf.PreTrainedModel]] = {
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


OTHERS = {
    "beit with a bias": PAIRWISE,
    "wav2vec2 that sums layers": "use_weighted_layer_sum",
    "gemma4 that shares keys": "num_kv_shared_layers",
    "llama4 that counts places": "attn_temperature_tuning",
    "bert that reads from left to right": "as an encoder only",
    "bart's decoder": "runs the encoder",
    "bart's decoder by name": "runs the encoder",
}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 20, "encoder_attention_heads": 2}
UNFIT |= {
    "gemma4 that shares keys": lambda: hf.Gemma4TextModel(
        hf.Gemma4TextConfig(
            **WORDS | {"num_hidden_layers": 4},
            layer_types=["sliding_attention", "full_attention"] * 2,
            num_kv_shared_layers=2,
            head_dim=8,
            vocab_size_per_layer_input=20,
        )
    ),
    "llama4 that counts places": lambda: hf.Llama4TextModel(
        hf.Llama4TextConfig(**WORDS, head_dim=8, no_rope_layers=[1, 0], num_local_experts=2, pad_token_id=0)
    ),
    "bert that reads from left to right": lambda: hf.BertLMHeadModel(hf.BertConfig(**WORDS, is_decoder=True)),
    "bart's decoder": lambda: hf.BartModel(hf.BartConfig(**BART, decoder_attention_heads=2)).decoder,
    "bart's decoder by name": lambda: hf.BartModel(hf.BartConfig(**BART, decoder_attention_heads=2)),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")  # DeBERTa's, before transformers 5.23
@pytest.mark.parametrize("name", UNFIT)
def test_unsupported_models_are_refused_with_the_reason(name):
    model = UNFIT[name]().eval()
    with pytest.raises(RltrError, match="is not supported") as error:
        Backbone(model, tower="decoder" if "by name" in name else None)
    assert type(model).__name__ in str(error.value) or "by name" in name
    assert (REFUSED.get(name) or OTHERS[name]) in str(error.value)


READ_FROM_SOURCE = {
    OWN_ATTENTION: (False, r"(?i)softmax|hash"),
    NO_ATTENTION: (False, r""),
    NOT_ONLY_ATTENTION: (None, r"(?i)conv1d|mamba|recurrent|gated_?delta|lightning|linear_?attention|short_?conv"),
    OWN_MASK: (None, r""),
}
"""By reason: whether the source of a model type calls transformers' attention interface, and a pattern in it."""


@pytest.mark.parametrize("name", REFUSED)
def test_the_reason_for_refusing_each_model_type_is_true(name, tiny_vit, monkeypatch):
    """The reason is checked with a model, or in the source of transformers; the model type alone decides."""
    module = CONFIG_MAPPING[name].__module__.replace("configuration_", "modeling_")
    if name not in UNFIT and REFUSED[name] in READ_FROM_SOURCE:
        called, pattern = READ_FROM_SOURCE[REFUSED[name]]
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        assert called is None or ("ALL_ATTENTION_FUNCTIONS.get_interface(" in source) == called
        assert re.search(pattern, source)
    monkeypatch.setattr(tiny_vit.config, "model_type", name, raising=False)
    with pytest.raises(RltrError, match=re.escape(REFUSED[name])):
        Backbone(tiny_vit)


def test_every_supported_family_is_a_model_type_of_transformers():
    assert FAMILIES.keys() <= set(CONFIG_MAPPING.keys())


def test_an_unknown_type_is_refused_with_the_next_step(tiny_vit, monkeypatch):
    monkeypatch.setattr(tiny_vit.config, "model_type", "robert", raising=False)
    with pytest.raises(RltrError, match=r"'robert' has not been proven exact.*roberta.*check_backbone") as error:
        Backbone(tiny_vit)
    assert "transformers >=" not in str(error.value)


def test_no_family_is_both_supported_and_refused():
    assert not FAMILIES.keys() & REFUSED.keys()


def test_the_page_of_models_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "out of date: run python -m tests.models_page"
