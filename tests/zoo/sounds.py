"""Tiny models for sounds."""

from typing import Any

from tests.zoo.entry import NONE, RIGHT, SEQ2SEQ, SOUND, Entry, entry

SPECTROGRAM = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 4,
    "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 16,
}  # fmt: skip
LISTENER = {
    "d_model": 32, "encoder_layers": 4, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "num_mel_bins": 8,
    "max_source_positions": 20,
}  # fmt: skip
MOONSHINE = {
    "hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 4, "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2, "encoder_num_key_value_heads": 2,
    "decoder_num_key_value_heads": 2, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip
CODEC = {
    "encoder_hidden_size": 4, "downsampling_ratios": [2, 2], "codebook_dim": 8, "codebook_size": 8, "n_codebooks": 2,
}  # fmt: skip
PE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "head_dim": 16,
    "max_position_embeddings": 64,
}  # fmt: skip


def _waves(name: str, **more: Any) -> Entry:
    return entry(f"{name}ForSequenceClassification", f"{name}Config", "waves", RIGHT, SOUND, **more)


SOUNDS = {
    "audio-spectrogram-transformer": entry("ASTForAudioClassification", "ASTConfig", "spectrograms", NONE, SPECTROGRAM),
    "wav2vec2": _waves("Wav2Vec2"),
    "hubert": _waves("Hubert", do_stable_layer_norm=True),
    "data2vec-audio": _waves("Data2VecAudio", conv_pos_kernel_size=3, num_conv_pos_embeddings=2),
    "sew": _waves("SEW", squeeze_factor=2),
    "unispeech": _waves("UniSpeech"),
    "unispeech-sat": _waves("UniSpeechSat"),
    "whisper": entry(
        "WhisperForAudioClassification", "WhisperConfig", "mel", NONE, SEQ2SEQ, num_mel_bins=8, max_source_positions=20
    ),
    "moonshine": entry("MoonshineModel", "MoonshineConfig", "long waves", RIGHT, MOONSHINE),
    "speech_to_text": entry(
        "Speech2TextModel", "Speech2TextConfig", "frames", RIGHT, SEQ2SEQ, input_feat_per_channel=8, input_channels=1,
        conv_channels=16, num_conv_layers=2, max_source_positions=80, max_target_positions=20,
    ),
    "qwen2_audio_encoder": entry("Qwen2AudioEncoder", "Qwen2AudioEncoderConfig", "mel", NONE, LISTENER),
    "voxtral_encoder": entry(
        "VoxtralEncoder", "VoxtralEncoderConfig", "mel", NONE, {}, hidden_size=32, intermediate_size=64,
        num_hidden_layers=4, num_attention_heads=2, num_mel_bins=8, max_source_positions=20,
    ),
    "pe_audio_encoder": entry("PeAudioEncoder", "PeAudioEncoderConfig", "codec waves", RIGHT, PE, dac_config=CODEC),
}  # fmt: skip
