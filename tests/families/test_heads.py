"""Heads that read every token weight each remaining token by its size, exactly.

The heads are written again here, for the last layer's output of the remaining tokens with their sizes.
"""

import pytest
import torch
import transformers as hf

from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll, baseline
from rltr.selectors.reduced_model import ReducedModel
from tests.families.conftest import answers
from tests.families.reference import LAYERS, Replay, final_grid, reduced
from tests.zoo import ZOO, batch


def mean(states, weight):
    return (states * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)


def dinov2(model, states, weight):
    states = model.dinov2.layernorm(states)
    return model.classifier(torch.cat([states[:, 0], mean(states[:, 1:], weight[:, 1:])], -1))


def beit(model, states, weight):
    return model.classifier(model.beit.pooler.layernorm(mean(states[:, 1:], weight[:, 1:])))


def siglip(model, states, weight):
    """Attention pooling in which a merged token counts by its size."""
    states, head = model.post_layernorm(states), model.head
    heads = head.attention.num_heads
    bias = weight.log().repeat_interleave(heads, 0)[:, None]
    pooled, _ = head.attention(head.probe.repeat(len(states), 1, 1), states, states, attn_mask=bias)
    return (pooled + head.mlp(head.layernorm(pooled)))[:, 0]


HEADS = {
    "dinov2": dinov2,
    "ijepa": lambda model, states, weight: model.classifier(mean(model.ijepa.layernorm(states), weight)),
    "videomae": lambda model, states, weight: model.classifier(model.fc_norm(mean(states, weight))),
    "beit": beit,
    "wav2vec2": lambda model, states, weight: model.classifier(mean(model.projector(states), weight)),
    "whisper": lambda model, states, weight: model.classifier(
        mean(model.projector(model.encoder.layer_norm(states)), weight)
    ),
    "siglip_vision_model": siglip,
}
CASES = [(name, padding) for name in HEADS for padding in ZOO[name].paddings]


@pytest.mark.parametrize(("name", "padding"), CASES)
def test_heads_that_read_all_tokens_weight_them_by_size(model, name, padding):
    inputs, backbone = batch(ZOO[name], padding), Backbone(model)
    grid = reduced(model, inputs, Replay(torch.ones(len(LAYERS), 4, 64, dtype=torch.bool)))[1].grid
    masks = torch.rand(len(LAYERS), 4, grid, generator=torch.Generator().manual_seed(3)) < 0.6
    with final_grid(backbone) as found:
        output, trace = reduced(model, inputs, Replay(masks))
    last = trace.stages[-1]
    assert last.size is not None and last.size.max() > 1
    weight = torch.zeros(len(last.counts), last.grid)
    weight[last.row, last.position] = last.size
    states = found[-1].masked_fill((weight == 0)[..., None], 0.0)  # positions of removed tokens do not count
    with torch.no_grad():
        expected = HEADS[name](model, states, weight)
    key = "logits" if "logits" in answers(output) else "pooler_output"
    torch.testing.assert_close(output[key], expected, atol=1e-5, rtol=1e-5)


SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
VISION = {**SIZES, "image_size": 16, "patch_size": 4}
TEXT = {**SIZES, "vocab_size": 60, "max_position_embeddings": 64}
OF_SEVERAL_LAYERS = {
    "depth": (
        lambda: hf.DPTForDepthEstimation(
            hf.DPTConfig(
                **VISION, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8
            )
        ),
        None,
    ),
    "segmentation": (
        lambda: hf.BeitForSemanticSegmentation(hf.BeitConfig(**VISION, out_indices=[1, 2, 3, 4], pool_scales=[1, 2])),
        None,
    ),
    "language": (
        lambda: hf.LlavaForConditionalGeneration(
            hf.LlavaConfig(
                vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**TEXT), image_token_index=59
            )
        ),
        "vision_tower",
    ),
    "masks by text": (
        lambda: hf.CLIPSegForImageSegmentation(
            hf.CLIPSegConfig(
                vision_config=VISION, text_config=TEXT, extract_layers=[1, 2, 3], reduce_dim=16,
                decoder_num_attention_heads=2,
            )
        ),
        "vision_model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("head", OF_SEVERAL_LAYERS)
def test_heads_that_read_several_layers_read_whole_grids(head):
    """Segmentation, depth, and language models with a vision tower: hidden states have every position."""
    make, tower = OF_SEVERAL_LAYERS[head]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():  # freshly initialised models hardly depend on their input
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    backbone = Backbone(model, tower)
    inputs = {"pixel_values": torch.randn(3, 3, 16, 16)}
    if tower is not None:
        ids = torch.randint(3, 50, (3, 20))
        ids[:, 2:18] = 59  # where LLaVA puts its sixteen patches
        inputs |= {"input_ids": ids}
    name = "predicted_depth" if head == "depth" else "logits"
    with torch.no_grad():
        native = model(**inputs)[name]
    for keep, same in ((1.0, True), (0.5, False)):
        with backbone.attached(), torch.no_grad():
            output, trace = ReducedModel(backbone, baseline("norm", keep) if keep < 1 else KeepAll(), [1])(inputs)
        assert output[name].shape == native.shape and output[name].isfinite().all()
        scale = float(native.abs().max())
        assert torch.allclose(output[name], native, atol=1e-5 * scale) == same
        assert (trace.stages[-1].total == trace.stages[0].total) == same
