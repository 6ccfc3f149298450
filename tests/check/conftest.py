"""Small shapes of models to check."""

TINY_TEXT = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 60,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
