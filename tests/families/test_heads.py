"""Heads that read every token read each that remains as often as the tokens it stands for: size-weighted, to the digit.

The heads are written out here once more, on what the last layer gives for tokens that remain, weighted by their sizes.
"""

import pytest
import torch

from rltr.backbone import Backbone
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
    """Attention pooling: a token that stands for many is attended like many."""
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
def test_heads_that_read_all_tokens_read_them_by_their_sizes(model, name, padding):
    inputs, backbone = batch(ZOO[name], padding), Backbone(model)
    grid = reduced(model, inputs, Replay(torch.ones(len(LAYERS), 4, 64, dtype=torch.bool)))[1].grid
    masks = torch.rand(len(LAYERS), 4, grid, generator=torch.Generator().manual_seed(3)) < 0.6
    with final_grid(backbone) as found:
        output, trace = reduced(model, inputs, Replay(masks))
    last = trace.stages[-1]
    assert last.size is not None and last.size.max() > 1
    weight = torch.zeros(len(last.counts), last.grid)
    weight[last.row, last.position] = last.size
    states = found[-1].masked_fill((weight == 0)[..., None], 0.0)  # what is written where tokens left does not count
    with torch.no_grad():
        expected = HEADS[name](model, states, weight)
    key = "logits" if "logits" in answers(output) else "pooler_output"
    torch.testing.assert_close(output[key], expected, atol=1e-5, rtol=1e-5)
