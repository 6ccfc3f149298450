"""What cannot work is refused with the reason, and the list of families in the documentation is what is tested."""

import pytest
import transformers as hf

from rltr.backbone import Backbone
from rltr.errors import RltrError
from rltr.families import FAMILIES, PAIRWISE, REFUSED
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


def test_no_family_is_both_supported_and_refused():
    assert not FAMILIES.keys() & REFUSED.keys()


def test_the_page_of_models_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.models_page"
