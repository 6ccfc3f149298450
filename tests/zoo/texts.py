"""Tiny bidirectional text models."""

from typing import Any

from tests.zoo.entry import BOTH, GROUPED, NONE, RIGHT, SEQ2SEQ, TEXT, Entry, entry


def _text(name: str, head: str = "ForSequenceClassification", **more: Any) -> Entry:
    return entry(f"{name}{head}", f"{name}Config", "texts", RIGHT, TEXT, **more)


def _tower(name: str, **more: Any) -> Entry:
    return entry(f"{name}TextModel", f"{name}TextConfig", "captions", RIGHT, TEXT, **more)


def _beside_a_decoder(name: str, head: str = "Model", **more: Any) -> Entry:
    return entry(f"{name}{head}", f"{name}Config", "pairs", RIGHT, SEQ2SEQ, max_position_embeddings=64, **more)


DISTIL = {
    "dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50, "max_position_embeddings": 64,
    "pad_token_id": 0,
}  # fmt: skip
TEXTS = {
    "bert": _text("Bert"),
    "roberta": _text("Roberta"),
    "xlm-roberta": _text("XLMRoberta"),
    "xlm-roberta-xl": _text("XLMRobertaXL"),
    "camembert": _text("Camembert"),
    "data2vec-text": _text("Data2VecText"),
    "distilbert": entry("DistilBertForSequenceClassification", "DistilBertConfig", "texts", RIGHT, DISTIL),
    "electra": _text("Electra", embedding_size=16),
    "albert": _text("Albert", embedding_size=16, num_hidden_groups=2),
    "ernie": _text("Ernie"),
    "mobilebert": _text("MobileBert", embedding_size=16, intra_bottleneck_size=16, num_feedforward_networks=2),
    "splinter": _text("Splinter", "Model"),
    "roc_bert": _text(
        "RoCBert", pronunciation_vocab_size=50, shape_vocab_size=50, pronunciation_embed_dim=8, shape_embed_dim=8
    ),
    "bert-generation": entry("BertGenerationEncoder", "BertGenerationConfig", "texts", RIGHT, TEXT),
    "dpr": entry("DPRQuestionEncoder", "DPRConfig", "texts", RIGHT, TEXT),
    "roberta-prelayernorm": _text("RobertaPreLayerNorm"),
    "modernbert": _text(
        "ModernBert", local_attention=8, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=2
    ),
    "modernbert, read at its mean": _text(
        "ModernBert", local_attention=8, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=2,
        classifier_pooling="mean",
    ),
    "esm": _text("Esm", mask_token_id=3, position_embedding_type="rotary"),
    "esmc": _text("Esmc"),
    "nomic_bert": _text("NomicBert", "Model"),
    "gte": _text("Gte"),
    "jina_embeddings_v3": _text("JinaEmbeddingsV3"),
    "eurobert": entry("EuroBertForSequenceClassification", "EuroBertConfig", "texts", RIGHT, GROUPED),
    "eurobert, read at its mean": entry(
        "EuroBertForSequenceClassification", "EuroBertConfig", "texts", RIGHT, GROUPED, classifier_pooling="mean"
    ),
    "gemma3_text, to both sides": entry(
        "Gemma3TextModel", "Gemma3TextConfig", "texts", BOTH, GROUPED, head_dim=8, sliding_window=5,
        sliding_window_pattern=2, use_bidirectional_attention=True,
    ),
    "altclip_text_model": entry("AltCLIPTextModel", "AltCLIPTextConfig", "texts", RIGHT, TEXT, project_dim=16),
    "chinese_clip_text_model": entry("ChineseCLIPTextModel", "ChineseCLIPTextConfig", "texts", RIGHT, TEXT),
    "bart": _beside_a_decoder("Bart", "ForSequenceClassification"),
    "mbart": _beside_a_decoder("MBart", "ForSequenceClassification"),
    "plbart": _beside_a_decoder("PLBart", "ForSequenceClassification"),
    "m2m_100": _beside_a_decoder("M2M100"),
    "marian": _beside_a_decoder("Marian"),
    "pegasus": _beside_a_decoder("Pegasus"),
    "blenderbot": _beside_a_decoder("Blenderbot"),
    "clip_text_model": _tower("CLIP"),
    "clipseg_text_model": _tower("CLIPSeg"),
    "owlvit_text_model": _tower("OwlViT"),
    "owlv2_text_model": _tower("Owlv2"),
    "metaclip_2_text_model": _tower("MetaClip2"),
    "siglip_text_model": entry("SiglipTextModel", "SiglipTextConfig", "texts", NONE, TEXT),
    "siglip2_text_model": entry("Siglip2TextModel", "Siglip2TextConfig", "texts", NONE, TEXT),
}  # fmt: skip
