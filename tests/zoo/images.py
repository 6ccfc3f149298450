"""Tiny models for images and videos."""

from typing import Any

from tests.zoo.entry import NONE, RIGHT, VISION, Entry, entry


def _image(name: str, head: str = "ForImageClassification", inputs: str = "images", **more: Any) -> Entry:
    return entry(f"{name}{head}", f"{name}Config", inputs, NONE, VISION, **more)


def _tower(name: str, **more: Any) -> Entry:
    return entry(f"{name}VisionModel", f"{name}VisionConfig", "images", NONE, VISION, **more)


SIZES = {name: size for name, size in VISION.items() if name != "image_size"}
IMAGES = {
    "vit": _image("ViT"),
    "deit": _image("DeiT"),
    "dinov2": _image("Dinov2"),
    "dinov2_with_registers": _image("Dinov2WithRegisters", num_register_tokens=2),
    "dinov3_vit": _image("DINOv3ViT", "Model", num_register_tokens=2),
    "beit": _image("Beit"),
    "beit, read at its first token": _image("Beit", use_mean_pooling=False),
    "vit_mae": _image("ViTMAE", "Model", "masked images", image_size=24, mask_ratio=0.5),
    "vit_msn": _image("ViTMSN"),
    "ijepa": _image("IJepa"),
    "dpt": _image("DPT", "Model"),
    "pixio": _image("Pixio", "Model"),
    "videomae": _image("VideoMAE", "ForVideoClassification", "videos", num_frames=4, tubelet_size=2),
    "videomae, read at its first token": _image(
        "VideoMAE", "ForVideoClassification", "videos", num_frames=4, tubelet_size=2, use_mean_pooling=False
    ),
    "vivit": _image("Vivit", "ForVideoClassification", "videos", num_frames=4, tubelet_size=[2, 4, 4]),
    "clip_vision_model": _tower("CLIP"),
    "altclip_vision_model": _tower("AltCLIP"),
    "chinese_clip_vision_model": _tower("ChineseCLIP"),
    "clipseg_vision_model": _tower("CLIPSeg"),
    "metaclip_2_vision_model": _tower("MetaClip2"),
    "owlvit_vision_model": _tower("OwlViT"),
    "owlv2_vision_model": _tower("Owlv2"),
    "git_vision_model": _tower("Git"),
    "blip_2_vision_model": _tower("Blip2"),
    "instructblip_vision_model": _tower("InstructBlip"),
    "internvl_vision": _tower("InternVL", image_size=[16, 16], patch_size=[4, 4]),
    "janus_vision_model": _tower("Janus"),
    "aimv2_vision_model": _tower("Aimv2"),
    "tipsv2_vision_model": _tower("Tipsv2", num_register_tokens=2),
    "siglip_vision_model": _tower("Siglip"),
    "siglip2_vision_model": entry("Siglip2VisionModel", "Siglip2VisionConfig", "patches", RIGHT, SIZES, num_patches=16),
    "idefics2_vision": entry("Idefics2VisionTransformer", "Idefics2VisionConfig", "patch images", RIGHT, VISION),
    "idefics3_vision": entry("Idefics3VisionTransformer", "Idefics3VisionConfig", "patch images", RIGHT, VISION),
    "smolvlm_vision": entry("SmolVLMVisionTransformer", "SmolVLMVisionConfig", "patch images", RIGHT, VISION),
}
