"""The policy folder, and a model that is made cheaper in place and restored bit for bit."""

import copy
import gc
import json
import math
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

import rltr
from rltr.backbone import Backbone
from rltr.cost import FlopsCost
from rltr.errors import RltrError
from rltr.export import (
    Operating,
    Policy,
    calibrate,
    describe,
    load_policy,
    save_policy,
    weight_for_budget,
    weight_for_drop,
)
from rltr.export.calibration import monotone
from rltr.export.folder import CARD, CONFIG, WEIGHTS
from rltr.files import recover_folder
from rltr.policies import PolicyConfig, TokenPolicy
from rltr.policies.network import decision_flops
from rltr.reduction import Reduction
from rltr.selectors.learned import Learned
from rltr.tasks import Task
from tests.conftest import IMAGE, build

LAYERS = (1, 2)
TABLE = [
    Operating(0.02, 0.95, 0.90, 0.90),
    Operating(0.2, 0.70, 0.89, 0.90),
    Operating(2.0, 0.40, 0.80, 0.90),
]


def policy_for(model: PreTrainedModel, grid: int = 17) -> Policy:
    """A policy with lively weights, so that what is kept depends on the input."""
    torch.manual_seed(3)
    backbone = Backbone(model)
    config = PolicyConfig(backbone.width, backbone.depth, grid, width=8)
    network = TokenPolicy(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    cost = FlopsCost.count(backbone.layers, *decision_flops(config))
    recipe = {"learner": {"rollouts": 64, "seed": 0}}
    network = network.eval().requires_grad_(False)
    return Policy(network, LAYERS, "merge", cost, grid, describe(backbone), list(TABLE), recipe)


def expected(model: PreTrainedModel, policy: Policy, inputs: dict[str, Tensor], weight: float) -> Tensor:
    """What the selector gives without ``attach``."""
    backbone = Backbone(model)
    with backbone.attached(), torch.no_grad():
        reduce = Reduction(backbone, Learned(policy.network, policy.pricing, weight), policy.layers, policy.dropped)
        output, trace = reduce(inputs)
    assert trace.stages[-1].total < trace.stages[0].total, "nothing was dropped, so nothing is shown"
    return output["logits"]


@pytest.fixture
def policy(tiny_vit: PreTrainedModel) -> Iterator[Policy]:
    """A policy for ``tiny_vit``, which is checked to be as it was in the end."""
    before = {name: value.clone() for name, value in tiny_vit.state_dict().items()}
    yield policy_for(tiny_vit)
    assert all(torch.equal(value, before[name]) for name, value in tiny_vit.state_dict().items())
    assert tiny_vit.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_vit.modules())


# The folder


def test_a_policy_survives_its_folder(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    again = load_policy(str(tmp_path / "policy"))
    assert (again.layers, again.dropped, again.cost) == (policy.layers, policy.dropped, policy.cost)
    assert (again.backbone, again.calibration, again.recipe) == (policy.backbone, policy.calibration, policy.recipe)
    assert again.network.config == policy.network.config and not again.network.training
    weights = policy.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in again.network.parameters())


def test_the_folder_holds_nothing_that_can_run_code(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == [CARD, CONFIG, WEIGHTS]
    json.loads((tmp_path / "policy" / CONFIG).read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_the_card_says_what_it_is(policy: Policy, tmp_path: Path) -> None:
    facts = {"table": [{"accuracy": "80.00%", "time": "0.50×"}], "environment": "torch 1"}
    save_policy(replace(policy, facts=facts), tmp_path / "first")
    save_policy(load_policy(tmp_path / "first"), tmp_path / "policy")  # results travel with the folder
    card = (tmp_path / "policy" / CARD).read_text()
    for said in ("rltr.attach(", "| 0.2 | 0.700 | 89.00% | 90.00% |", "| 80.00% | 0.50× |", "torch 1", "64 rollouts"):
        assert said in card, said
    assert policy.backbone["fingerprint"][:16] in card


def test_saving_again_replaces_the_whole_folder(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    (tmp_path / "policy" / "left_over").touch()
    save_policy(replace(policy, layers=(2,)), tmp_path / "policy")
    assert load_policy(tmp_path / "policy").layers == (2,)
    assert not (tmp_path / "policy" / "left_over").exists()


def test_a_calibration_of_when_all_tasks_were_classifications_is_read() -> None:
    old = {"cost_weight": 0.2, "cost": 0.7, "accuracy": 0.89, "dense_accuracy": 0.9}
    assert Operating.from_dict(old) == Operating(0.2, 0.7, 0.89, 0.9) == Operating.from_dict(TABLE[1].to_dict())


def test_the_folder_in_use_is_not_replaced(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(policy, tmp_path / "policy")
    monkeypatch.chdir(tmp_path / "policy")
    for folder in (Path("."), Path(".."), tmp_path / "policy"):
        with pytest.raises(RltrError, match="while you are in it; name a folder below"):
            save_policy(policy, folder)
    assert load_policy(tmp_path / "policy").layers == LAYERS
    save_policy(policy, Path("below"))


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_folder_has_the_permissions_of_any_other(policy: Policy, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_policy(policy, tmp_path / "policy")
    finally:
        os.umask(before)
    assert (tmp_path / "policy").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_folder_set_aside_is_not_lost(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two renames, the next writer finds the old folder, and nothing is left lying about."""
    save_policy(policy, tmp_path / "policy")
    (tmp_path / "policy").rename(tmp_path / ".policy.old")
    recover_folder(tmp_path / "policy")
    assert load_policy(tmp_path / "policy").layers == LAYERS
    shutil.copytree(tmp_path / "policy", tmp_path / ".policy.old")  # killed after them
    save_policy(replace(policy, layers=(2,)), tmp_path / "policy")
    assert load_policy(tmp_path / "policy").layers == (2,)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def rewrite(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def drop_key(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    del config["layers"]
    (folder / CONFIG).write_text(json.dumps(config))


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (lambda folder: rewrite(folder, format=99, rltr="9.9"), "9.9.*update rltr"),
    "too old": (lambda folder: rewrite(folder, format=1, rltr="0.0"), "older rltr 0.0.*Train it again"),
    "no json": (lambda folder: (folder / CONFIG).write_text("{"), "damaged"),
    "no text": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe\xfa"), "damaged"),
    "a list": (lambda folder: (folder / CONFIG).write_text("[]"), "damaged"),
    "a key less": (drop_key, "damaged"),
    "another shape": (lambda folder: rewrite(folder, policy=PolicyConfig(32, 4, 17, width=4).to_dict()), "damaged"),
    "no cost model": (lambda folder: rewrite(folder, cost={"name": "hope"}), "hope"),
    "cut short": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "damaged"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no policy folder"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_damaged_folder_is_a_clear_line(policy: Policy, tmp_path: Path, case: str) -> None:
    spoil, said = SPOILED[case]
    save_policy(policy, tmp_path / "policy")
    spoil(tmp_path / "policy")
    with pytest.raises(RltrError, match=said) as refused:
        load_policy(tmp_path / "policy")
    assert "\n" not in str(refused.value)


# Attaching


@pytest.mark.parametrize("family", ["vit", "bert"])
@pytest.mark.parametrize("dropped", ["merge", "drop"])
def test_an_attached_model_is_the_reduced_model(family: str, dropped: Any, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(f"tiny_{family}")
    inputs = request.getfixturevalue("image_inputs" if family == "vit" else "text_inputs")
    policy = replace(policy_for(model), dropped=dropped)
    native = model(**inputs).logits
    wanted = expected(model, policy, inputs, 3.0)
    attachment = rltr.attach(model, policy, cost_weight=3.0)
    assert attachment.cost_weight == 3.0
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, wanted)
        assert torch.equal(model(*inputs.values()).logits, wanted)
    assert not torch.equal(wanted, native)
    rltr.detach(model)
    assert torch.equal(model(**inputs).logits, native)


def test_it_is_a_context_manager(policy: Policy, tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]) -> None:
    native = tiny_vit(**image_inputs).logits
    with rltr.attach(tiny_vit, policy, cost_weight=1.0) as attachment:
        assert attachment.reduction.layers == LAYERS
        assert not torch.equal(tiny_vit(**image_inputs).logits, native)
    assert torch.equal(tiny_vit(**image_inputs).logits, native)
    with pytest.raises(ZeroDivisionError), rltr.attach(tiny_vit, policy, cost_weight=1.0):
        raise ZeroDivisionError
    assert torch.equal(tiny_vit(**image_inputs).logits, native)
    with pytest.raises(RltrError, match="nothing to detach"):
        rltr.detach(tiny_vit)


def test_a_block_may_detach_early(policy: Policy, tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]) -> None:
    native = tiny_vit(**image_inputs).logits
    with rltr.attach(tiny_vit, policy, cost_weight=1.0):
        rltr.detach(tiny_vit)
    with pytest.raises(ZeroDivisionError), rltr.attach(tiny_vit, policy, cost_weight=1.0):
        rltr.detach(tiny_vit)
        raise ZeroDivisionError
    first = rltr.attach(tiny_vit, policy, cost_weight=1.0)
    rltr.detach(tiny_vit)
    with rltr.attach(tiny_vit, policy, cost_weight=1.0):
        first.detach()  # undoes what it did itself, and nobody else's
        assert not torch.equal(tiny_vit(**image_inputs).logits, native)
    assert torch.equal(tiny_vit(**image_inputs).logits, native)


def test_a_forward_that_raises_leaves_no_trace(
    policy: Policy, tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]
) -> None:
    native = tiny_vit(**image_inputs).logits
    wanted = expected(tiny_vit, policy, image_inputs, 1.0)
    layers: Any = [m for m in tiny_vit.modules() if type(m).__name__ == "ViTLayer"]
    with rltr.attach(tiny_vit, policy, cost_weight=1.0):

        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        handle = layers[2].register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            tiny_vit(**image_inputs)
        handle.remove()
        with torch.no_grad():
            assert torch.equal(tiny_vit(**image_inputs).logits, wanted)
        tiny_vit.train()
        with pytest.raises(RltrError, match="training mode"):
            tiny_vit(**image_inputs)
        tiny_vit.eval()
        with pytest.raises(RltrError, match="output_hidden_states"):
            tiny_vit(**image_inputs, output_hidden_states=True)
        with torch.no_grad():
            assert torch.equal(tiny_vit(**image_inputs).logits, wanted)
    assert torch.equal(tiny_vit(**image_inputs).logits, native)


def test_threads_do_not_mix(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    batches = [{"pixel_values": torch.randn(3, 3, 16, 16)} for _ in range(8)]
    wanted = [expected(tiny_vit, policy, inputs, 1.0) for inputs in batches]

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [tiny_vit(**inputs).logits for _ in range(3)]

    with rltr.attach(tiny_vit, policy, cost_weight=1.0), ThreadPoolExecutor(2) as pool:
        for found, right in zip(pool.map(run, batches), wanted, strict=True):
            assert all(torch.equal(logits, right) for logits in found)


def test_a_folder_can_be_attached_by_budget(policy: Policy, tiny_vit: PreTrainedModel, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    for options, weight in (
        ({"budget": 0.7}, 0.2),
        ({"budget": 1.0}, 0.02),
        ({"max_drop": 0.02}, 0.2),
        ({"max_drop": 0.5}, 2.0),
        ({"cost_weight": 7.0}, 7.0),
    ):
        with rltr.attach(tiny_vit, tmp_path / "policy", **options) as attachment:
            assert attachment.cost_weight == pytest.approx(weight)


def test_the_attention_backend_can_be_chosen(
    policy: Policy, tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]
) -> None:
    answers = []
    for attention in ("sdpa-per-row", "sdpa-padded"):
        with rltr.attach(tiny_vit, policy, cost_weight=1.0, attention=attention) as attachment:
            assert attachment.reduction.backbone.attention == attention
            answers.append(tiny_vit(**image_inputs).logits)
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "exactly one.*none"),
        ({"budget": 0.5, "cost_weight": 1.0}, "exactly one.*budget, cost_weight"),
        ({"budget": 0.1}, "choose 0.40 to 0.95"),
        ({"max_drop": -0.5}, "no share of quality"),
        ({"max_drop": 1.0}, "0.01 means one point"),
        ({"budget": 60.0}, "0.6 means 60 %"),
        ({"cost_weight": 0.0}, "above 0"),
        ({"cost_weight": -1.0}, "above 0"),
        ({"cost_weight": math.nan}, "above 0"),
        ({"cost_weight": math.inf}, "finite; this policy was calibrated for 0.02 to 2"),
        ({"budget": math.nan}, "budget"),
    ],
)
def test_an_impossible_operating_point_is_refused(
    policy: Policy, tiny_vit: PreTrainedModel, options: dict[str, float], said: str
) -> None:
    with pytest.raises(RltrError, match=said):
        rltr.attach(tiny_vit, policy, **options)


def test_another_backbone_is_refused_with_both_fingerprints(policy: Policy, tiny_deit: PreTrainedModel) -> None:
    with pytest.raises(RltrError) as refused:
        rltr.attach(tiny_deit, policy, cost_weight=1.0)
    for fingerprint in (policy.backbone["fingerprint"], Backbone(tiny_deit).fingerprint):
        assert fingerprint[:16] in str(refused.value)
    assert tiny_deit.config._attn_implementation == "sdpa"


def test_other_weights_are_another_backbone() -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    model = ViTForImageClassification(config).eval()
    policy = policy_for(model, 5)
    with torch.no_grad():
        model.classifier.bias[0] += 1e-3
    with pytest.raises(RltrError, match="fingerprint"):
        rltr.attach(model, policy, cost_weight=1.0)


def test_attaching_twice_is_refused(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    with rltr.attach(tiny_vit, policy, cost_weight=1.0), pytest.raises(RltrError, match="rltr.detach"):
        rltr.attach(tiny_vit, policy, cost_weight=1.0)
    rltr.attach(tiny_vit, policy, cost_weight=1.0)
    rltr.detach(tiny_vit)


def test_a_backbone_in_use_elsewhere_is_refused(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    with Backbone(tiny_vit).attached(), pytest.raises(RltrError, match="another rltr.Backbone"):
        rltr.attach(tiny_vit, policy, cost_weight=1.0)
    with pytest.raises(RltrError, match="no policy is attached"):
        rltr.detach(tiny_vit)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_copy_of_an_attached_model_is_the_native_one(attention: str, image_inputs: dict[str, Tensor]) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4
    )
    torch.manual_seed(0)
    model = ViTForImageClassification._from_config(config, attn_implementation=attention).eval()
    policy, called = policy_for(model), []
    model.base_model.register_forward_hook(lambda *_: called.append(1))
    kept, native, before = set(vars(model)), hooks_of(model), model(**image_inputs).logits
    rltr.attach(model, policy, cost_weight=1.0)
    reduced = model(**image_inputs).logits
    assert not torch.equal(reduced, before)
    inside = nn.Sequential(model)
    copies: tuple[Any, ...] = (copy.deepcopy(model), copy.deepcopy(inside)[0])
    for other in copies:
        assert set(vars(other)) == kept and hooks_of(other) == native
        assert other.config._attn_implementation == attention
        assert all(theirs is not ours for theirs, ours in zip(other.parameters(), model.parameters(), strict=True))
        assert torch.equal(other(**image_inputs).logits, before)
        with pytest.raises(RltrError, match="no policy is attached"):
            rltr.detach(other)
        with rltr.attach(other, policy, cost_weight=1.0):
            assert torch.equal(other(**image_inputs).logits, reduced)
        assert torch.equal(model(**image_inputs).logits, reduced)
    calls = len(called)
    rltr.detach(model)
    assert set(vars(model)) == kept and hooks_of(model) == native
    assert torch.equal(model(**image_inputs).logits, before) and len(called) == calls + 1


def hooks_of(model: PreTrainedModel) -> list[dict[str, list[int]]]:
    """The numbers of every module's hooks, and of those that are called otherwise."""
    return [
        {name: list(hooks) for name, hooks in vars(module).items() if "forward" in name and isinstance(hooks, dict)}
        for module in model.modules()
    ]


def test_an_attached_model_can_be_forgotten() -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    model = ViTForImageClassification(config).eval()
    rltr.attach(model, policy_for(model, 5), cost_weight=1.0)
    forgotten = weakref.ref(model)
    del model
    gc.collect()
    assert forgotten() is None


def test_image_pipelines_run_on_an_attached_model(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    classify: Any = pipeline("image-classification", model=tiny_vit, image_processor=processor, device="cpu")
    picture = Image.effect_noise((20, 20), 90).convert("RGB")
    native = classify(picture)
    wanted = expected(tiny_vit, policy, dict(processor(picture, return_tensors="pt")), 1.0).softmax(-1)[0]
    with rltr.attach(tiny_vit, policy, cost_weight=1.0):
        found = classify(picture)
    assert [answer["score"] for answer in found] == pytest.approx(wanted.sort(descending=True).values.tolist())
    assert found != native and classify(picture) == native


def test_text_pipelines_run_on_an_attached_model() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(**shape, vocab_size=len(words), initializer_range=0.5)).eval()
    policy = policy_for(model, 16)
    texts = ["a b c d e f g h", "c a", "h h h a b"]
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    wanted = expected(model, policy, inputs, 1.0).softmax(-1).max(-1).values
    classify: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    with rltr.attach(model, policy, cost_weight=1.0):
        found = classify(texts, batch_size=3)
        one_by_one = classify(texts)
    for answers in (found, one_by_one):
        assert [answer["score"] for answer in answers] == pytest.approx(wanted.tolist(), rel=1e-4)


# Calibration


def test_calibration_is_what_the_reduced_model_does(policy: Policy, tiny_vit: PreTrainedModel, tiny_task: Task) -> None:
    backbone, examples = Backbone(tiny_vit), tiny_task.validation
    weights = [0.1, 1.0, 10.0]
    table = calibrate(backbone, policy.network, policy.pricing, "merge", examples, weights, batch_size=5)
    inputs = examples.batch(range(len(examples)))
    dense_right = (tiny_vit(**inputs).logits.argmax(-1) == examples.labels).float().mean()
    for point, weight in zip(table, weights, strict=True):
        with backbone.attached(), torch.no_grad():
            output, trace = Reduction(backbone, Learned(policy.network, policy.pricing, weight), LAYERS)(inputs)
        counts = [torch.tensor(stage.counts) for stage in trace.stages]
        assert point.cost_weight == weight and point.dense_quality == pytest.approx(float(dense_right))
        paid, dense = policy.pricing.total(counts).sum(), policy.pricing.dense(counts[0]).sum()
        assert point.cost == pytest.approx(float(paid / dense), rel=1e-4)
        right = (output["logits"].argmax(-1) == examples.labels).float().mean()
        assert point.quality == pytest.approx(float(right))


def test_a_model_in_half_precision_is_calibrated_as_well(tiny_task: Task) -> None:
    beit, weights = build(BeitForImageClassification, BeitConfig(**IMAGE)), [0.1, 10.0]
    policy = policy_for(beit)
    tables = [
        calibrate(Backbone(model), policy.network, policy.pricing, "merge", tiny_task.validation, weights)
        for model in (beit, copy.deepcopy(beit).to(torch.bfloat16))
    ]
    for single, half in zip(*tables, strict=True):
        assert half.cost == pytest.approx(single.cost, abs=0.1) and 0 <= half.quality <= 1


@st.composite
def tables(draw: st.DrawFn) -> list[Operating]:
    """Calibrations with costs that mostly fall, as measured ones do."""
    count = draw(st.integers(1, 8))
    weights = sorted(draw(st.lists(st.floats(0.01, 10), min_size=count, max_size=count, unique=True)))
    costs = draw(st.lists(st.floats(0.1, 1.2), min_size=count, max_size=count))
    accuracies = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    return [Operating(w, c, a, 0.9) for w, c, a in zip(weights, costs, accuracies, strict=True)]


@given(tables(), st.floats(0.1, 1.2), st.floats(0.1, 1.2))
def test_weights_for_budgets_fall_as_budgets_rise(table: list[Operating], low: float, high: float) -> None:
    low, high = sorted((low, high))
    assume(low >= min(point.cost for point in table))
    dear, cheap = weight_for_budget(table, low), weight_for_budget(table, high)
    assert dear >= cheap * (1 - 1e-9)
    weights = [point.cost_weight for point in table]
    for weight in (dear, cheap):
        assert min(weights) * (1 - 1e-9) <= weight <= max(weights) * (1 + 1e-9)


@given(tables())
def test_every_kept_point_of_a_calibration_is_found_again(table: list[Operating]) -> None:
    for point in monotone(table):
        found = weight_for_budget(table, point.cost)
        assert found == pytest.approx(point.cost_weight, rel=1e-6)
    with pytest.raises(RltrError, match="cost_weight="):
        weight_for_budget(table, min(point.cost for point in table) - 0.01)


@given(tables(), st.floats(0, 1))
def test_the_cheapest_point_within_a_drop_is_chosen(table: list[Operating], drop: float) -> None:
    rising = sorted(table, key=lambda point: point.cost_weight)
    # The same smoothing in another way: the largest of all least means of runs that end here or later.
    drops = [point.dense_quality - point.quality for point in rising]
    smooth = [
        max(min(mean(drops[start : end + 1]) for end in range(i, len(drops))) for start in range(i + 1))
        for i in range(len(drops))
    ]
    allowed = [point for point, lost in zip(rising, smooth, strict=True) if lost <= drop + 1e-9]
    if allowed:
        chosen = weight_for_drop(table, drop)
        point = next(point for point in table if point.cost_weight == chosen)
        assert point.cost == min(other.cost for other in allowed)
    else:
        with pytest.raises(RltrError, match="smallest drop"):
            weight_for_drop(table, drop)


def test_one_lucky_number_is_not_believed() -> None:
    drops = [0.0, 0.02, 0.0, 0.03, 0.04]
    table = [Operating(2.0**i, 1 - 0.1 * i, 0.9 - drop, 0.9) for i, drop in enumerate(drops)]
    assert weight_for_drop(table, 0.005) == 1 and weight_for_drop(table, 0.01) == 4
    with pytest.raises(RltrError, match="Accept more, or pass a cost_weight= below 2 "):
        weight_for_drop(table[1:], 0.005)


def test_an_uncalibrated_policy_says_so(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    for options in ({"budget": 0.5}, {"max_drop": 0.1}):
        with pytest.raises(RltrError, match="without calibration"):
            rltr.attach(tiny_vit, replace(policy, calibration=[]), **options)
