"""Several labels, embeddings and zero-shot classification."""

import pytest
import torch

from rltr.errors import RltrError
from rltr.tasks import score
from rltr.tasks.goals import (
    Classification,
    Embedding,
    MultiLabel,
    ZeroShot,
)


def test_fidelity_of_several_labels_is_a_sum_of_two_class_divergences() -> None:
    generator = torch.Generator().manual_seed(0)
    dense, reduced = (0.3 * torch.randn(5, 3, generator=generator) for _ in "ab")
    each = sum(
        Classification().fidelity(*(torch.stack([logits[:, i], torch.zeros(5)], 1) for logits in (dense, reduced)))
        for i in range(3)
    )
    torch.testing.assert_close(MultiLabel().fidelity(dense, reduced), each)
    assert (
        MultiLabel().quality(dense, torch.tensor([[1.0, -1, 2]] * 5), torch.tensor([[1.0, 1, 1]] * 5)).mean() == 2 / 3
    )
    with pytest.raises(RltrError, match="0 or 1"):
        score("both", MultiLabel(), dense, reduced, torch.full((5, 3), 2.0))


def test_pooling_ignores_padding() -> None:
    states = torch.arange(12.0).view(2, 3, 2)
    present = torch.tensor([[1, 1, 1], [1, 1, 0]])
    mean = Embedding(2).read({"last_hidden_state": states}, {"attention_mask": present})
    assert mean.tolist() == [[2.0, 3.0], [7.0, 8.0]]
    assert Embedding(2, "cls").read({"last_hidden_state": states}, {}).tolist() == [[0.0, 1.0], [6.0, 7.0]]
    for mask in (present, present.flip(1)):
        first = Embedding(2, "cls").read({"last_hidden_state": states}, {"attention_mask": mask})
        assert first.tolist() == [[0.0, 1.0], states[1, 1 - int(mask[1, 0])].tolist()]
    assert (
        Embedding(2, output="image_embeds").read({"image_embeds": states[:, 0]}, {}).tolist() == states[:, 0].tolist()
    )


def test_scores_of_embeddings_ignore_length_and_decisions_are_nearest_neighbours() -> None:
    dense = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
    assert score("fidelity", Embedding(2), dense, 5 * dense, torch.zeros(3, 0)).abs().max() < 1e-6
    assert Embedding(2).decide(dense).tolist() == [1, 0, 1]
    turned = torch.tensor([[1.0, 0.0], [0.1, 1.0], [0.0, 1.0]])
    assert Embedding(2).agreement(dense, turned).tolist() == [1.0, 0.0, 1.0]


def test_zero_shot_logits_are_scaled_cosines() -> None:
    anchors, embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [5.0, 5.0]])
    logits = ZeroShot(anchors, scale=10.0, bias=-1.0).read({"image_embeds": embeddings}, {})
    torch.testing.assert_close(logits, torch.tensor([[9.0, -1.0], [10 * 0.5**0.5 - 1, 10 * 0.5**0.5 - 1]]))
    other = ZeroShot(anchors, scale=1.0, output="text_embeds")
    assert other.read({"text_embeds": embeddings}, {}).argmax(-1)[0] == 0
