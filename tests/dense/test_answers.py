"""Dense answers: computed once, the same bits in every run, and never those of another model or data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertConfig, BertForTokenClassification, BertModel, CLIPConfig, CLIPModel

from rltr.dense import DenseAnswers
from rltr.dense.cache import dense_key
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.tasks import TensorExamples
from rltr.tasks.goals import Embedding, Goal, MultiLabel, Regression, TokenClassification
from tests.dense.conftest import cache


def test_a_second_run_pays_nothing_and_gets_the_same_bits(
    tiny_vit: Any, tiny_task: Any, tmp_path: Path, passes: list[int]
) -> None:
    index = torch.tensor([2, 7, 7, 0, 23])
    first = DenseAnswers(Backbone(tiny_vit), tiny_task.train, cache=cache(tmp_path))
    logits = first(index)
    assert passes == [1] * 4
    second = DenseAnswers(Backbone(tiny_vit), tiny_task.train, cache=cache(tmp_path))
    assert torch.equal(second(index), logits) and len(passes) == 4
    assert second.known.sum() == 4
    second(torch.tensor([0, 1]))
    assert len(passes) == 5
    uncached = DenseAnswers(Backbone(tiny_vit), tiny_task.train)(index)
    torch.testing.assert_close(uncached, logits)


@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(0, 23), min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_what_was_asked_before_and_by_whom_changes_no_bit(
    tiny_vit: Any, tiny_task: Any, tmp_path_factory: pytest.TempPathFactory, asked: list[list[int]], data: Any
) -> None:
    """Results must not depend on what other runs have stored, or a resumed run could differ."""
    shared = tmp_path_factory.mktemp("shared")
    backbone = Backbone(tiny_vit)
    alone = DenseAnswers(backbone, tiny_task.train, cache=cache(tmp_path_factory.mktemp("alone")))(torch.arange(24))
    for index in asked:
        fresh = DenseAnswers(backbone, tiny_task.train, cache=cache(shared))
        for part in (index, data.draw(st.permutations(index))):
            assert torch.equal(fresh(torch.tensor(part)), alone[torch.tensor(part)])


def test_what_a_checkpoint_says_stays(tiny_vit: Any, tiny_task: Any, tmp_path: Path) -> None:
    """It may come from another machine, and the training has already used its last bits."""
    backbone = Backbone(tiny_vit)
    DenseAnswers(backbone, tiny_task.train, cache=cache(tmp_path))(torch.arange(24))
    resumed = DenseAnswers(backbone, tiny_task.train, cache=cache(tmp_path))
    resumed.known[3] = True
    resumed.answers[3] = torch.tensor([1.0, 2.0, 3.0])
    found = resumed(torch.tensor([2, 3]))
    assert found[1].tolist() == [1.0, 2.0, 3.0] and resumed.known.all()


def test_off_a_cpu_the_same_neighbours_go_together(
    tiny_vit: Any, tiny_task: Any, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DenseAnswers, "_together", 5)
    dense = DenseAnswers(Backbone(tiny_vit), tiny_task.train, cache=cache(tmp_path))
    dense(torch.tensor([7, 23, 6]))
    assert passes == [5, 4] and dense.known.nonzero().flatten().tolist() == [5, 6, 7, 8, 9, 20, 21, 22, 23]


def test_data_without_a_fingerprint_are_computed_as_without_a_cache(
    tiny_vit: Any, tiny_task: Any, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorExamples, "fingerprint", lambda self: None)
    DenseAnswers(Backbone(tiny_vit), tiny_task.train, cache=cache(tmp_path))(torch.arange(24))
    assert passes == [24] and not (tmp_path / "dense").exists()


def test_answers_that_are_not_finite_are_refused_by_name_and_never_stored(
    tiny_vit: Any, tiny_task: Any, tmp_path: Path
) -> None:
    pixels = tiny_task.train.inputs["pixel_values"].clone()
    pixels[4] = torch.inf
    bad = TensorExamples(
        tiny_task.train.labels, tiny_task.train.names, tiny_task.train.classes, {"pixel_values": pixels}
    )
    for own in (None, cache(tmp_path)):
        dense = DenseAnswers(Backbone(tiny_vit), bad, cache=own)
        with pytest.raises(RltrError, match="NaN or infinite for 'train/4'"):
            dense(torch.tensor([3, 4]))
        assert not dense.known.any() and not (tmp_path / "dense").exists()


def test_the_key_tells_apart_what_gives_other_numbers(tiny_vit: Any, tiny_deit: Any, tiny_task: Any) -> None:
    backbone, train = Backbone(tiny_vit), tiny_task.train
    keys = [dense_key(backbone, train, 1), dense_key(backbone, train, 64), dense_key(Backbone(tiny_deit), train, 1)]
    keys += [dense_key(backbone, split, 1) for split in (tiny_task.test, train.subset([0, 1]), train.subset([1, 0]))]
    with torch.no_grad():
        weight = tiny_vit.classifier.bias
        before = weight.clone()
        weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))  # the same in bfloat16
        keys.append(dense_key(Backbone(tiny_vit), train, 1))
        weight.copy_(before)
    torch.set_num_threads(2)
    keys.append(dense_key(backbone, train, 1))
    torch.set_num_threads(1)
    assert len(set(keys)) == len(keys)
    assert dense_key(Backbone(tiny_vit), train, 1) == keys[0]


def test_the_key_tells_apart_how_torch_computes(tiny_vit: Any, tiny_task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str | None:
        return dense_key(Backbone(tiny_vit), tiny_task.train, 1)

    keys = [key()]
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        keys.append(key())
    finally:
        torch.set_float32_matmul_precision(precision)
    try:
        torch.use_deterministic_algorithms(True)
        keys.append(key())
    finally:
        torch.use_deterministic_algorithms(False)
    enabled = torch.backends.mkldnn.enabled
    try:
        torch._C._set_mkldnn_enabled(not enabled)
        keys.append(key())
    finally:
        torch._C._set_mkldnn_enabled(enabled)
    for flag in ("deterministic", "allow_tf32"):
        monkeypatch.setattr(torch.backends.cudnn, flag, not getattr(torch.backends.cudnn, flag))
        keys.append(key())
    monkeypatch.undo()
    assert len(set(keys)) == len(keys) and key() == keys[0]


def test_the_key_sees_all_that_stands_around_a_tower(tiny_task: Any) -> None:
    """Parameters outside the towers, and the attention of every tower, affect the answers of the whole model."""
    part = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = CLIPConfig(
        vision_config={**part, "image_size": 16, "patch_size": 4},
        text_config={**part, "vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 2},
        projection_dim=8,
    )
    model = CLIPModel(config).eval()

    def key() -> str | None:
        return dense_key(Backbone(model, tower="vision_model"), tiny_task.train, 1)

    keys = [key()]
    model.config.logit_scale_init_value = 1.5  # of the whole, beside its towers
    keys.append(key())
    model.config.text_config.layer_norm_eps = 1e-3
    keys.append(key())
    model.text_model.set_attn_implementation("eager")
    keys.append(key())
    model.register_buffer("turned", torch.zeros(2), persistent=False)  # in no checkpoint, and in the answers
    keys.append(key())
    assert len(set(keys)) == len(keys)


def goals(vit: Any, examples: TensorExamples) -> list[TensorExamples]:
    """The same images for several goals, whose answers differ in what they are or in shape."""
    nothing, numbers = torch.zeros(24, 0), examples.labels[:, None].float()
    pooled = Embedding(vit.config.num_labels, output="logits")
    tokens = TokenClassification(17)
    words = torch.zeros(24, 17, dtype=torch.long)
    wanted: list[tuple[Any, Tensor, list[str]]] = [
        (None, examples.labels, examples.classes),
        (MultiLabel(), numbers.expand(-1, 3), examples.classes),
        (pooled, nothing, []),
        (tokens, words, examples.classes),
        (tokens, words, examples.classes[:2]),
    ]
    return [
        TensorExamples(labels, examples.names, classes, examples.inputs, goal=goal) for goal, labels, classes in wanted
    ]


def test_the_key_tells_goals_and_shapes_apart(tiny_vit: Any, tiny_task: Any) -> None:
    every = goals(tiny_vit, tiny_task.train)
    keys = [dense_key(Backbone(tiny_vit), examples, 1) for examples in every]
    assert len(set(keys)) == len(keys)
    other_labels = [
        TensorExamples(torch.rand(24, 1), every[0].names, [], every[0].inputs, goal=Regression(deviation, 2.0))
        for deviation in (0.5, 1.5)
    ]
    assert len({dense_key(Backbone(tiny_vit), examples, 1) for examples in other_labels}) == 1


@pytest.mark.parametrize(
    ("head", "goal"), [(BertModel, Embedding(8)), (BertForTokenClassification, TokenClassification(7))]
)
def test_answers_of_any_shape_are_found_again(head: Any, goal: Goal, tmp_path: Path) -> None:
    """What the goal reads is stored, padding marked as such, and not what the model says."""
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    backbone = Backbone(head(config).eval())
    mask = (torch.arange(7) < torch.tensor([7, 3, 5, 7, 1, 2])[:, None]).long()
    inputs = {"input_ids": torch.randint(5, 20, (6, 7)), "attention_mask": mask}
    names, labels = [str(i) for i in range(6)], torch.zeros(6, 7, dtype=torch.long)
    examples = TensorExamples(labels, names, ["a", "b", "c"], inputs, goal=goal)
    first = DenseAnswers(backbone, examples, cache=cache(tmp_path))(torch.arange(6))
    with torch.no_grad():
        torch.testing.assert_close(first, goal.read(backbone.model(**inputs), inputs))
    second = DenseAnswers(backbone, examples, cache=cache(tmp_path))
    assert not second.known.any() and torch.equal(second(torch.tensor([4, 0])), first[[4, 0]])
    assert second.known.all()  # from the disk: nobody asked for the others
