"""Threads and interruptions: a running pass does not change, and an interrupted one leaves nothing behind."""

import gc
import threading

import pytest
import torch
import transformers as hf

import rltr
from rltr.envs import make_episodes
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from tests.backbone.conftest import LAYERS, PIXELS, examples, selector, untouched
from tests.conftest import TEXT, build
from tests.deploy.conftest import policy_for


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
def test_a_running_pass_does_not_change_when_another_thread_detaches(model, rows, layer, then):
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
def test_an_interrupted_pass_leaves_nothing_behind(model, tiny_bert, text_inputs, error, where, attached):
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
def test_a_started_environment_refuses_other_threads(model, how):
    episodes = make_episodes(model, examples(), rows=2, layers=LAYERS)
    keep = torch.ones(2, 17, dtype=torch.bool)
    seen = episodes.reset()
    actions = {"reset": episodes.reset, "step": lambda: episodes.step(keep), "close": episodes.close}
    error = in_another_thread(actions[how])
    assert isinstance(error, RltrError), error
    assert "MainThread" in str(error) and "worker" in str(error) and "one environment per thread" in str(error)
    following, _, _ = episodes.step(keep)  # the episode continues
    assert following.layer[0] == LAYERS[1] and seen.layer[0] == LAYERS[0]
    episodes.close()
    assert untouched(model)


def test_a_new_environment_can_be_used_in_another_thread(model):
    episodes = make_episodes(model, examples(), rows=2, layers=LAYERS)
    assert in_another_thread(lambda: [act() for act in (episodes.reset, episodes.close)]) is None
    assert untouched(model)


def test_an_abandoned_pass_releases_the_model(model):
    episodes = make_episodes(model, examples(), rows=2, layers=LAYERS)
    episodes.reset()
    del episodes
    gc.collect()
    assert untouched(model)
