"""Answers of an attached model do not depend on global settings of the program."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import rltr
from rltr.deploy import save_policy
from rltr.envs import make_episodes
from rltr.tasks import TensorExamples
from tests.conftest import TEXT, build
from tests.deploy.conftest import expected, policy_for


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS: dict[str, Any] = {
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "float16 by default": lambda: default_dtype(torch.float16),
    "another device by default": lambda: default_device("meta"),  # in place of an accelerator
    "inference mode": torch.inference_mode,
    "deterministic": deterministic,
}


def models() -> dict[str, tuple[Any, dict[str, Tensor]]]:
    ids = torch.randint(5, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(12) < torch.tensor([[12], [9], [7]])).long()
    words = {"input_ids": ids.where(mask.bool(), 0), "attention_mask": mask}
    return {
        "bert": (lambda: build(hf.BertForSequenceClassification, hf.BertConfig(**TEXT)), words),
        "gemma2": (
            lambda: build(
                hf.Gemma2ForSequenceClassification,
                hf.Gemma2Config(**TEXT, num_key_value_heads=1, head_dim=8, sliding_window=5),
            ),
            words,
        ),
    }


@pytest.mark.parametrize("removal", ["merge", "drop"])
@pytest.mark.parametrize("family", ["bert", "gemma2"])
@pytest.mark.parametrize("around", SURROUNDINGS)
def test_answers_do_not_depend_on_global_settings(around: str, family: str, removal: Any, tmp_path: Path) -> None:
    make, inputs = models()[family]
    model = make()
    policy = policy_for(model, 12)
    policy.removal = removal
    wanted = expected(model, policy, inputs, 3.0)
    save_policy(policy, tmp_path / "policy")
    surroundings: AbstractContextManager[Any] = SURROUNDINGS[around]()
    with surroundings, torch.no_grad(), rltr.attach(model, tmp_path / "policy", cost_weight=3.0):
        assert torch.equal(model(**inputs).logits, wanted)
    with torch.no_grad(), rltr.attach(model, tmp_path / "policy", cost_weight=3.0):
        assert torch.equal(model(**inputs).logits, wanted)


@pytest.mark.parametrize("around", [name for name in SURROUNDINGS if "device" not in name])
def test_rollouts_do_not_depend_on_global_settings(around: str, tiny_vit: hf.PreTrainedModel) -> None:
    examples = TensorExamples(
        torch.arange(4) % 3, list("abcd"), ["a", "b", "c"], {"pixel_values": torch.randn(4, 3, 16, 16)}
    )

    keep = torch.arange(17).expand(2, 17) % 2 == 0

    def rollout() -> list[Tensor]:
        episodes = make_episodes(tiny_vit, examples, rows=2, layers=(1, 2))
        episodes.seed([0, 1])
        seen = episodes.reset()
        found = [seen.hidden, seen.token_features, seen.price]
        for _ in range(2):
            seen, reward, _ = episodes.step(keep)
            found += [seen.hidden, seen.token_features, seen.price, reward]
        episodes.close()
        return found

    wanted = rollout()
    with SURROUNDINGS[around]():
        found = rollout()
    assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_of_any_precision_can_be_attached(dtype: torch.dtype, tmp_path: Path) -> None:
    make, inputs = models()["bert"]
    model = make().to(dtype)
    policy = policy_for(model, 12)
    save_policy(policy, tmp_path / "policy")
    with torch.no_grad(), default_dtype(dtype), rltr.attach(model, tmp_path / "policy", cost_weight=3.0):
        assert model(**inputs).logits.dtype == dtype


def test_autocast_hardly_changes_the_first_decision(
    tiny_vit: hf.PreTrainedModel, image_inputs: dict[str, Tensor]
) -> None:
    """Autocast rounds even the patch embeddings, so a few tokens of the first decision may differ."""
    policy = policy_for(tiny_vit)
    policy.layers = (0, 2)
    with torch.no_grad(), rltr.attach(tiny_vit, policy, cost_weight=3.0) as attached:
        tiny_vit(**image_inputs)
        wanted = attached.reduced_model
        with torch.autocast("cpu", torch.bfloat16):
            output = tiny_vit(**image_inputs)
        assert output.logits.isfinite().all()
        backbone = wanted.backbone
        plain = backbone.run(wanted.new_forward(), image_inputs)[1]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = backbone.run(wanted.new_forward(), image_inputs)[1]
    assert plain.stages[0].total == rounded.stages[0].total
    same = (plain.present[1] == rounded.present[1]).float().mean()
    assert same > 0.9


def test_gradients_flow_through_kept_tokens(tiny_vit: hf.PreTrainedModel, image_inputs: dict[str, Tensor]) -> None:
    """As for saliency maps: the derivative is that of the attached model, with its decisions held fixed."""
    model = copy.deepcopy(tiny_vit).double()
    policy = policy_for(model)
    pixels = image_inputs["pixel_values"][:2].double().requires_grad_()
    with rltr.attach(model, policy, cost_weight=3.0) as attached:
        model(pixel_values=pixels).logits.sum().backward()
        kept = attached.kept
        assert kept is not None and kept.total < 2 * 17 and pixels.grad is not None
        direction = torch.randn_like(pixels)
        with torch.no_grad():
            step = 1e-6
            up, down = (float(model(pixel_values=pixels + s * step * direction).logits.sum()) for s in (1, -1))
    assert (up - down) / (2 * step) == pytest.approx(float((pixels.grad * direction).sum()), rel=1e-4)


@pytest.mark.parametrize("trained", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16, torch.float16])
def test_a_policy_fits_its_checkpoint_loaded_in_another_precision(
    trained: torch.dtype, loaded: torch.dtype, tmp_path: Path
) -> None:
    """Loading rounds float32 weights once; float16 and bfloat16 lose different bits, so they do not fit each other."""
    make, _ = models()["bert"]
    make().save_pretrained(tmp_path)
    read = hf.BertForSequenceClassification.from_pretrained
    policy = policy_for(read(tmp_path, dtype=trained).eval(), 12)
    model = read(tmp_path, dtype=loaded).eval()
    if {trained, loaded} == {torch.bfloat16, torch.float16}:
        with pytest.raises(rltr.RltrError, match="fingerprint"):
            rltr.attach(model, policy, cost_weight=1.0)
        return
    rltr.attach(model, policy, cost_weight=1.0).detach()
    with torch.no_grad():
        model.classifier.bias += 0.25
    with pytest.raises(rltr.RltrError, match="fingerprint"):
        rltr.attach(model, policy, cost_weight=1.0)
