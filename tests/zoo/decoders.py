"""Tiny causal text models."""

from typing import Any

from tests.zoo.entry import BOTH, EXPERTS, GROUPED, TEXT, Entry, entry


def _decoder(name: str, head: str = "ForSequenceClassification", **more: Any) -> Entry:
    return entry(f"{name}{head}", f"{name}Config", "texts", BOTH, GROUPED, **more)


def _even(name: str, head: str = "ForSequenceClassification", **more: Any) -> Entry:
    """A decoder with as many key heads as query heads."""
    return entry(f"{name}{head}", f"{name}Config", "texts", BOTH, TEXT, **more)


def _experts(name: str, head: str = "ForSequenceClassification", **more: Any) -> Entry:
    return entry(f"{name}{head}", f"{name}Config", "texts", BOTH, EXPERTS, **more)


GPT = {"n_embd": 32, "n_layer": 4, "n_head": 2, "vocab_size": 50, "n_positions": 64, "pad_token_id": 0}
LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}  # fmt: skip
ROPES = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
DECODERS = {
    "gpt2": entry("GPT2ForSequenceClassification", "GPT2Config", "texts", BOTH, GPT),
    "gpt_bigcode": entry("GPTBigCodeForSequenceClassification", "GPTBigCodeConfig", "texts", BOTH, GPT),
    "opt": _even("OPT", ffn_dim=64, word_embed_proj_dim=32),
    "biogpt": _even("BioGpt"),
    "llama": _decoder("Llama"),
    "arcee": _decoder("Arcee"),
    "apertus": _decoder("Apertus", "ForTokenClassification"),
    "mistral": _decoder("Mistral", sliding_window=5),
    "ministral": _decoder("Ministral", sliding_window=5, head_dim=8),
    "ministral3": _decoder("Ministral3", head_dim=8, sliding_window=None),
    "qwen2": _decoder("Qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=2),
    "qwen3": _decoder("Qwen3", head_dim=8),
    "qwen2_vl_text": _decoder("Qwen2VLText", "Model", rope_parameters=ROPES),
    "qwen3_vl_text": _decoder("Qwen3VLText", "Model", head_dim=8, rope_parameters=ROPES),
    "gemma": _decoder("Gemma", head_dim=8),
    "gemma2": _decoder("Gemma2", head_dim=8, sliding_window=5, attn_logit_softcapping=2.0),
    "gemma3_text": entry(
        "Gemma3TextForSequenceClassification", "Gemma3TextConfig", "texts", BOTH, GROUPED, head_dim=8,
        sliding_window=5, sliding_window_pattern=2,
    ),
    "gemma4_text": entry(
        "Gemma4TextModel", "Gemma4TextConfig", "texts", BOTH, GROUPED, head_dim=8, global_head_dim=8, sliding_window=5,
        layer_types=["sliding_attention", "full_attention"] * 2, num_kv_shared_layers=0, hidden_size_per_layer_input=4,
        vocab_size_per_layer_input=50, num_global_key_value_heads=2,
    ),
    "vaultgemma": _decoder("VaultGemma", "Model", head_dim=8, sliding_window=5),
    "smollm3": _decoder("SmolLM3", no_rope_layers=[1, 1, 1, 0]),
    "phi": _even("Phi"),
    "phi3": _decoder("Phi3", sliding_window=5),
    "gpt_neox": _even("GPTNeoX"),
    "olmo": _decoder("Olmo", "ForCausalLM"),
    "olmo2": _decoder("Olmo2"),
    "olmo3": _decoder("Olmo3", sliding_window=5),
    "granite": _decoder("Granite", "ForCausalLM"),
    "cohere": _decoder("Cohere", "ForCausalLM"),
    "cohere2": _decoder("Cohere2", "ForCausalLM", head_dim=8, sliding_window=5),
    "glm": _decoder("Glm", head_dim=8),
    "glm4": _decoder("Glm4", head_dim=8),
    "exaone4": _decoder("Exaone4", head_dim=8, sliding_window=5, sliding_window_pattern=2),
    "seed_oss": _decoder("SeedOss", head_dim=8),
    "nemotron": _decoder("Nemotron"),
    "persimmon": _even("Persimmon"),
    "stablelm": _decoder("StableLm"),
    "helium": _decoder("Helium", head_dim=8),
    "ernie4_5": _decoder("Ernie4_5", "ForCausalLM", head_dim=8),
    "hunyuan_v1_dense": _decoder("HunYuanDenseV1", head_dim=8),
    "bitnet": _decoder("BitNet", "ForCausalLM"),
    "diffllama": _decoder("DiffLlama"),
    "nanochat": _decoder("NanoChat", "ForCausalLM"),
    "cwm": _decoder("Cwm", "ForCausalLM", head_dim=8, sliding_window=5),
    "jais2": _decoder("Jais2", "ForCausalLM"),
    "modernbert-decoder": _even("ModernBertDecoder", local_attention=8, global_attn_every_n_layers=2),
    "starcoder2": _decoder("Starcoder2", sliding_window=5),
    "gpt_oss": _experts("GptOss", head_dim=8, sliding_window=5, num_local_experts=2, num_experts_per_tok=1),
    "mixtral": _experts("Mixtral", num_local_experts=4, sliding_window=5),
    "qwen2_moe": _experts("Qwen2Moe", num_experts=4, shared_expert_intermediate_size=16),
    "qwen3_moe": _experts("Qwen3Moe", num_experts=4, head_dim=8),
    "olmoe": _experts("Olmoe", "ForCausalLM", num_experts=4),
    "flex_olmo": _experts("FlexOlmo", "ForCausalLM", num_experts=4),
    "granitemoe": _experts("GraniteMoe", "ForCausalLM", num_local_experts=4),
    "granitemoeshared": _experts("GraniteMoeShared", "ForCausalLM", num_local_experts=4, shared_intermediate_size=16),
    "phimoe": _experts("Phimoe", num_local_experts=4, sliding_window=5),
    "ernie4_5_moe": _experts("Ernie4_5_Moe", "ForCausalLM", moe_num_experts=4, moe_k=2),
    "hunyuan_v1_moe": _experts("HunYuanMoEV1", num_experts=4, head_dim=8, moe_topk=2),
    "glm4_moe": _experts("Glm4Moe", "ForCausalLM", n_routed_experts=4, n_group=1, topk_group=1, head_dim=8),
    "dots1": _experts(
        "Dots1", "ForCausalLM", n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1, head_dim=8
    ),
    "minimax_m2": _experts("MiniMaxM2", "ForCausalLM", num_local_experts=4, head_dim=8),
    "deepseek_v2": _experts("DeepseekV2", **LATENT, head_dim=4, topk_method="greedy"),
    "deepseek_v3": _experts("DeepseekV3", **LATENT),
    "llama4_text": _experts(
        "Llama4Text", "Model", head_dim=8, num_local_experts=2, num_experts_per_tok=1, intermediate_size_mlp=64,
        attention_chunk_size=8, attn_temperature_tuning=False, interleave_moe_layer_step=2,
    ),
}  # fmt: skip
