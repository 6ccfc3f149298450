"""Threads, interruptions, copies and policies on one model: a running pass does not change."""

import copy
import gc
import importlib
import io
import pickle
import threading
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn.parallel.replicate import replicate

import rltr
from rltr.dense import DenseAnswers
from rltr.envs import TokenSelectionEnv, TokenSelectionVecEnv, make_episodes
from rltr.errors import RltrError
from rltr.runtime.attention import current
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks import TensorExamples
from rltr.tasks.zero_shot import vision_tower
from tests.backbone.conftest import LAYERS, selector
from tests.conftest import TEXT, build
from tests.deploy.conftest import policy_for

PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(tiny_vit):
    return copy.deepcopy(tiny_vit)


def examples():
    return TensorExamples(
        torch.arange(4) % 3, list("abcd"), ["a", "b", "c"], {"pixel_values": torch.randn(4, 3, 16, 16)}
    )


def untouched(model):
    return (
        current.get() is None
        and model.config._attn_implementation == "sdpa"
        and not any("forward" in vars(module) for module in model.modules())
        and not any(name.startswith("_rltr") for module in model.modules() for name in vars(module))
    )


class Held:
    """A thread that runs ``work`` and stops inside of a layer until it is released."""

    def __init__(self, layer, work):
        self.inside, self.go, self.answers = threading.Event(), threading.Event(), []
        part = next(layer.children())
        self._hook = part.register_forward_pre_hook(self._stop)
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()
        assert self.inside.wait(60)
        self._hook.remove()

    def _stop(self, *_):
        self.inside.set()
        assert self.go.wait(60)

    def _run(self, work):
        with torch.no_grad():
            self.answers.append(work())

    def finish(self):
        self.go.set()
        self._thread.join(60)
        (answer,) = self.answers
        return answer


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("then", ["nothing", "another weight", "another backbone", "a native call"])
def test_a_pass_ends_as_it_began_when_another_thread_detaches(model, rows, layer, then):
    policy, inputs = policy_for(model), {"pixel_values": PIXELS[:rows]}
    with torch.no_grad():
        native = model(**inputs).logits
        wanted = {}
        for weight in (3.0, 0.001):
            with rltr.attach(model, policy, cost_weight=weight):
                wanted[weight] = model(**inputs).logits
    rltr.attach(model, policy, cost_weight=3.0)
    held = Held(model.vit.layers[layer], lambda: model(**inputs).logits)
    rltr.detach(model)
    with torch.no_grad():
        if then == "another weight":  # a server that changes its operating point
            with rltr.attach(model, policy, cost_weight=0.001):
                assert torch.equal(model(**inputs).logits, wanted[0.001])
                assert torch.equal(held.finish(), wanted[3.0])
                assert torch.equal(model(**inputs).logits, wanted[0.001])
        elif then == "another backbone":
            with Backbone(model).attached() as other:
                kept, _ = ReducedModel(other, KeepAll(), LAYERS)(inputs)
                torch.testing.assert_close(kept["logits"], native, atol=1e-5, rtol=1e-5)
                assert torch.equal(model(**inputs).logits, native)
        elif then == "a native call":
            assert torch.equal(model(**inputs).logits, native)
        if not held.answers:
            assert torch.equal(held.finish(), wanted[3.0])
        assert torch.equal(model(**inputs).logits, native)
    assert untouched(model)


def test_a_native_pass_of_an_eager_model_keeps_its_attention_when_another_thread_detaches(model):
    """Eager attention takes additive masks, sdpa boolean ones; a running pass must not change from one to the other."""
    other = build(hf.BertForSequenceClassification, hf.BertConfig(**TEXT))
    other.set_attn_implementation("eager")
    ids = torch.randint(5, 50, (2, 12))
    mask = (torch.arange(12) < torch.tensor([[12], [7]])).long()
    with torch.no_grad():
        native = other(input_ids=ids, attention_mask=mask).logits
    backbone = Backbone(other)
    backbone.attach()
    held = Held(other.bert.encoder.layer[2], lambda: other(input_ids=ids, attention_mask=mask).logits)
    backbone.detach()
    assert other.config._attn_implementation == "rltr", "the pass still runs"
    torch.testing.assert_close(held.finish(), native, atol=1e-5, rtol=1e-5)
    assert other.config._attn_implementation == "eager"


def test_one_of_two_threads_that_attach_at_once_is_refused(model):
    for _ in range(30):
        barrier = threading.Barrier(2)
        done: list[Backbone] = []

        def attach(backbone, barrier=barrier, done=done):
            barrier.wait()
            try:
                backbone.attach()
                done.append(backbone)
            except RltrError as error:
                assert "another rltr.Backbone" in str(error)

        threads = [threading.Thread(target=attach, args=(Backbone(model),)) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = done
        winner.detach()
        assert untouched(model)


class Stop(BaseException):
    """An interruption like KeyboardInterrupt that no library handles."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Stop, ZeroDivisionError])
@pytest.mark.parametrize("where", [0, 2, 3, "head"])
@pytest.mark.parametrize("attached", ["policy", "backbone"])
def test_an_interrupted_pass_is_forgotten(model, tiny_bert, text_inputs, error, where, attached):
    inputs = {"pixel_values": PIXELS}

    def interrupt(*_):
        raise error

    with torch.no_grad():
        native, other = model(**inputs).logits, tiny_bert(**text_inputs).logits
        part = model.classifier if where == "head" else next(model.vit.layers[where].children())
        handle = part.register_forward_pre_hook(interrupt)
        if attached == "policy":
            with rltr.attach(model, policy_for(model), cost_weight=3.0), pytest.raises(error):
                model(**inputs)
        else:
            with Backbone(model).attached() as backbone, pytest.raises(error):
                ReducedModel(backbone, selector("norm"), LAYERS)(inputs)
        handle.remove()
        assert untouched(model)
        with Backbone(tiny_bert).attached():  # as every training does for the dense model
            assert torch.equal(tiny_bert(**text_inputs).logits, other)
        assert torch.equal(model(**inputs).logits, native)


def in_another_thread(work):
    """The error that ``work`` raises in another thread, or None."""
    raised = []

    def run():
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="worker")
    thread.start()
    thread.join(60)
    return raised[0] if raised else None


@pytest.mark.parametrize("how", ["reset", "step", "close"])
def test_an_environment_belongs_to_the_thread_that_began_it(model, how):
    episodes = make_episodes(model, examples(), rows=2, layers=LAYERS)
    keep = torch.ones(2, 17, dtype=torch.bool)
    seen = episodes.reset()
    actions = {"reset": episodes.reset, "step": lambda: episodes.step(keep), "close": episodes.close}
    error = in_another_thread(actions[how])
    assert isinstance(error, RltrError), error
    assert "MainThread" in str(error) and "worker" in str(error) and "one environment per thread" in str(error)
    following, _, _ = episodes.step(keep)  # nothing was lost
    assert following.layer[0] == LAYERS[1] and seen.layer[0] == LAYERS[0]
    episodes.close()
    assert untouched(model)


def test_an_environment_that_has_not_begun_may_be_used_anywhere(model):
    episodes = make_episodes(model, examples(), rows=2, layers=LAYERS)
    assert in_another_thread(lambda: [act() for act in (episodes.reset, episodes.close)]) is None
    assert untouched(model)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: make_episodes(model, examples(), rows=2),
        lambda model: TokenSelectionEnv(model=model, examples=examples()),
        lambda model: TokenSelectionVecEnv(make_episodes(model, examples(), rows=2)),
        lambda model: Backbone.shared(model),
        lambda model: Backbone(model).attach(),
        lambda model: rltr.check_backbone(model),
        lambda model: DenseAnswers(Backbone.shared(model), examples()),
        lambda model: rltr.attach(model, policy_for(copy.deepcopy(model)), cost_weight=1.0),
    ],
    ids=["episodes", "env", "vec env", "shared", "backbone", "check", "dense", "attach"],
)
@pytest.mark.parametrize("inner", [False, True], ids=["whole", "base"])
def test_uses_that_need_native_answers_refuse_an_attached_policy(model, use, inner):
    rltr.attach(model, policy_for(model), cost_weight=3.0)
    with pytest.raises(RltrError, match=r"rltr\.detach\(model\)"):
        use(model.base_model if inner else model)
    rltr.detach(model)
    assert untouched(model)


def test_a_backbone_is_shared_by_part_and_attention(model):
    with Backbone(model).attached() as backbone:
        assert Backbone.shared(model) is backbone
        with pytest.raises(RltrError, match="attention='auto' is attached"):
            Backbone.shared(model, attention="sdpa-padded")
    assert Backbone.shared(model) is not backbone


def test_towers_of_one_model_are_not_shared():
    clip = small_clip()
    with Backbone(clip, tower="vision_model").attached() as images:
        texts = Backbone.shared(clip, tower="text_model")
        assert texts is not images and texts.root is clip.text_model
        assert Backbone.shared(clip, tower="vision_model") is images
        with texts.attached():
            assert Backbone.shared(clip, tower="text_model") is texts
    assert untouched(clip)


def small_clip():
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    text = {**shape, "vocab_size": 50, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**shape, "image_size": 16, "patch_size": 4, "projection_dim": 8}
    config = hf.CLIPConfig(text_config={**text, "projection_dim": 8}, vision_config=vision, projection_dim=8)
    return build(hf.CLIPModel, config)


@pytest.mark.parametrize("by", ["the same tower", "a new tower", "the whole", "the part"])
def test_a_policy_is_detached_by_whatever_shares_its_part(by):
    clip = small_clip()
    with torch.no_grad():
        native = clip.get_image_features(pixel_values=PIXELS)
    tower = vision_tower(clip)
    rltr.attach(tower, policy_for(tower), cost_weight=10.0)
    with torch.no_grad():
        assert not torch.equal(embedding(clip.get_image_features(pixel_values=PIXELS)), embedding(native))
    models = {
        "the same tower": tower,
        "a new tower": vision_tower(clip),
        "the whole": clip,
        "the part": clip.vision_model,
    }
    rltr.detach(models[by])
    with torch.no_grad():
        assert torch.equal(embedding(clip.get_image_features(pixel_values=PIXELS)), embedding(native))
    assert untouched(clip)


def embedding(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


STORED: dict[str, Any] = {
    "pickle": pickle.dumps,
    "torch.save": lambda model: torch.save(model, io.BytesIO()),
    "its base": lambda model: pickle.dumps(model.base_model),
    "within a larger one": lambda model: pickle.dumps(torch.nn.Sequential(model)),
    "copy.copy": copy.copy,
    "copy.copy of its base": lambda model: copy.copy(model.base_model),
    "copy.copy of a layer": lambda model: copy.copy(model.vit.layers[0]),
    "replicas": lambda model: replicate(torch.nn.Sequential(model), [0, 1]),
    "replicas of its base": lambda model: replicate(model.base_model, [0, 1]),
    "replicas of its layers": lambda model: replicate(model.vit.layers, [0, 1]),
}


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("attached", ["policy", "backbone"])
def test_an_attached_model_is_not_pickled_and_not_copied_shallowly(model, how, attached, monkeypatch):
    """A copy would share the wrappers, which run the original."""
    replicas_without_devices(monkeypatch)
    backbone = Backbone(model)
    with rltr.attach(model, policy_for(model), cost_weight=3.0) if attached == "policy" else backbone.attached():
        with pytest.raises(RltrError, match=r"rltr\.detach\(model\)"):
            STORED[how](model)
        assert model.state_dict().keys()
    STORED[how](model)


def replicas_without_devices(monkeypatch):
    """Patch ``replicate``, which DataParallel uses, to copy weights on the CPU instead of to other devices."""
    module = importlib.import_module("torch.nn.parallel.replicate")  # a function has that name, too
    monkeypatch.setattr(module, "_get_device_index", lambda device, _: device)
    monkeypatch.setattr(
        module,
        "_broadcast_coalesced_reshape",
        lambda tensors, devices, detach=False: [[tensor.clone() for tensor in tensors] for _ in devices],
    )


def test_once_detached_a_shallow_copy_runs_itself(model, monkeypatch):
    replicas_without_devices(monkeypatch)
    with torch.no_grad():
        wanted = model(pixel_values=PIXELS).logits
        with rltr.attach(model, policy_for(model), cost_weight=3.0):
            model(pixel_values=PIXELS)
        replica = replicate(model, [0, 1])[1]
        model.vit.layers[0].attention.q_proj.weight.zero_()
        model.vit.embeddings.cls_token.add_(1)
        assert torch.equal(replica(pixel_values=PIXELS).logits, wanted)
        copied = copy.copy(model.vit)
        copied._modules = dict(replica.vit._modules)
        states = copied(pixel_values=PIXELS).last_hidden_state
        assert torch.equal(states, replica.vit(pixel_values=PIXELS).last_hidden_state)


@pytest.mark.parametrize("part", ["whole", "base", "layer", "larger"])
def test_copies_of_any_part_are_native_and_use_their_own_weights(model, part):
    inputs = {"pixel_values": PIXELS}
    with torch.no_grad():
        base = model.vit(**inputs).last_hidden_state
        logits = model(**inputs).logits
        with rltr.attach(model, policy_for(model), cost_weight=3.0):
            if part == "whole":
                assert torch.equal(copy.deepcopy(model)(**inputs).logits, logits)
            elif part == "base":
                assert torch.equal(copy.deepcopy(model.vit)(**inputs).last_hidden_state, base)
            elif part == "layer":
                copied = copy.deepcopy(model.vit.layers[0])
                for parameter in copied.parameters():
                    parameter.zero_()
                states = torch.randn(2, 17, 32)
                assert torch.equal(copied(states), states), "only the residual is left"
                assert not torch.equal(model.vit.layers[0](states), states)
            else:
                copied = copy.deepcopy(torch.nn.ModuleDict({"inner": model, "other": torch.nn.Linear(2, 2)}))
                assert torch.equal(copied["inner"](**inputs).logits, logits) and untouched(copied["inner"])


def test_an_abandoned_pass_releases_the_model(model):
    episodes = make_episodes(model, examples(), rows=2, layers=LAYERS)
    episodes.reset()
    del episodes
    gc.collect()
    assert untouched(model)
