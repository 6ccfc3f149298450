"""A paused forward pass gives bit for bit the same as an uninterrupted one, and does not affect other passes."""

import gc
import threading
import weakref

import greenlet
import pytest
import torch

from rltr.errors import RltrError
from rltr.runtime.attention import current
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision
from rltr.runtime.pause import PausedForward
from rltr.selectors import KeepAll, Selector
from rltr.selectors.reduced_model import ReducedModel

LAYERS = (1, 3)
modes = pytest.mark.parametrize("mode", ["merge", "drop"])


class Draw(Selector):
    """Random choices from a seed: the same decisions get the same choices."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, decision):
        return Choice(torch.rand(decision.tokens.total, generator=self.generator) < 0.6)


def logits_of(paused):
    """Logits of a pass that has ended."""
    assert paused.decision is None and paused.output is not None
    return paused.output["logits"]


def finish(paused, decide):
    """Make all remaining decisions; returns the logits."""
    decision = paused.decision
    while decision is not None:
        decision = paused.resume(decide(decision))
    return logits_of(paused)


@pytest.fixture
def backbone(case):
    """An attached backbone of each family."""
    with Backbone(case.model).attached() as attached:
        yield attached


def inline(backbone, inputs, seed, mode="merge"):
    with torch.no_grad():
        return ReducedModel(backbone, Draw(seed), LAYERS, mode)(inputs)


@modes
def test_paused_and_inline_runs_give_identical_bits(case, backbone, mode):
    expected, trace = inline(backbone, case.inputs, 0, mode)
    paused = PausedForward(backbone, case.inputs, LAYERS, mode)
    decision = paused.start()
    assert decision is paused.decision and decision.layer == LAYERS[0] and paused.output is None
    logits = finish(paused, Draw(0))
    assert torch.equal(logits, expected.logits) and type(paused.output) is type(expected)
    assert torch.equal(paused.trace.present, trace.present) and paused.trace.layers == LAYERS


@modes
def test_paused_and_other_passes_do_not_affect_each_other(case, backbone, mode):
    """Other passes of the same model between two steps: native, reduced, paused, and in another thread."""
    expected = {seed: inline(backbone, case.inputs, seed, mode)[0].logits for seed in (0, 1, 2)}
    with torch.no_grad():
        native = case.model(**case.inputs).logits
    first, decide = PausedForward(backbone, case.inputs, LAYERS, mode), Draw(0)
    first.start()
    second, decide_second = PausedForward(backbone, case.inputs, LAYERS, mode), Draw(1)
    second.start()
    from_thread = []
    while first.decision is not None:
        assert current.get() is None
        with torch.no_grad():
            assert torch.equal(case.model(**case.inputs).logits, native)
        assert torch.equal(inline(backbone, case.inputs, 2, mode)[0].logits, expected[2])

        def elsewhere():
            with torch.no_grad():
                from_thread.append(case.model(**case.inputs).logits)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(60)
        if second.decision is not None:
            second.resume(decide_second(second.decision))
        first.resume(decide(first.decision))
    assert all(torch.equal(logits, native) for logits in from_thread) and len(from_thread) == len(LAYERS)
    assert torch.equal(logits_of(first), expected[0])
    assert torch.equal(logits_of(second), expected[1])


def test_passes_of_two_models_can_be_interleaved(tiny_vit, tiny_bert, image_inputs, text_inputs):
    with Backbone(tiny_vit).attached() as images, Backbone(tiny_bert).attached() as texts:
        work = [(images, image_inputs), (texts, text_inputs)]
        expected = [inline(backbone, inputs, 0)[0].logits for backbone, inputs in work]
        passes = [(PausedForward(backbone, inputs, LAYERS), Draw(0)) for backbone, inputs in work]
        for paused, _ in passes:
            paused.start()
        for _ in LAYERS:
            for paused, decide in passes:
                paused.resume(decide(paused.decision))
        assert all(torch.equal(logits_of(paused), e) for (paused, _), e in zip(passes, expected, strict=True))


def test_a_paused_pass_may_run_inside_a_decision(case, backbone):
    expected = inline(backbone, case.inputs, 0)[0].logits

    class Curious(Draw):
        def __call__(self, decision):
            inner = PausedForward(backbone, case.inputs, LAYERS)
            inner.start()
            assert torch.equal(finish(inner, Draw(1)), expected_inner)
            return super().__call__(decision)

    expected_inner = inline(backbone, case.inputs, 1)[0].logits
    with torch.no_grad():
        out, _ = ReducedModel(backbone, Curious(0), LAYERS)(case.inputs)
    assert torch.equal(out["logits"], expected)
    paused = PausedForward(backbone, case.inputs, LAYERS)
    paused.start()
    assert torch.equal(finish(paused, Curious(0)), expected)


def test_a_backward_pass_fits_between_two_steps(case, backbone):
    """A policy may be trained on hidden states while the pass is paused."""
    expected = inline(backbone, case.inputs, 0)[0].logits
    weight = torch.zeros(backbone.width, requires_grad=True)
    paused, decide = PausedForward(backbone, case.inputs, LAYERS), Draw(0)
    decision: Decision | None = paused.start()
    while decision is not None:
        assert not decision.hidden.requires_grad and not decision.hidden.is_inference()
        (decision.hidden @ weight).sigmoid().log().sum().backward()
        decision = paused.resume(decide(decision))
    assert torch.equal(logits_of(paused), expected)
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert not logits_of(paused).requires_grad


@pytest.mark.parametrize("mode", [True, False])
def test_grad_mode_of_the_caller_is_kept(case, backbone, mode):
    with torch.set_grad_enabled(mode):
        paused = PausedForward(backbone, case.inputs, LAYERS)
        paused.start()
        assert torch.is_grad_enabled() == mode
        with torch.set_grad_enabled(not mode):
            paused.resume(Draw(0)(paused.decision))
            assert torch.is_grad_enabled() != mode
        finish(paused, Draw(1))
        assert torch.is_grad_enabled() == mode
        closed = PausedForward(backbone, case.inputs, LAYERS)
        closed.start()
        closed.close()
        assert torch.is_grad_enabled() == mode
        failing = PausedForward(backbone, case.inputs, LAYERS)
        failing.start()
        with pytest.raises(RuntimeError, match="size"):
            failing.resume(Choice(torch.ones(2, dtype=torch.bool)))
        assert torch.is_grad_enabled() == mode
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("began", [True, False])
def test_inference_mode_may_change_between_steps(case, backbone, began):
    expected = inline(backbone, case.inputs, 0)[0].logits
    paused, decide = PausedForward(backbone, case.inputs, LAYERS), Draw(0)
    with torch.inference_mode(began):
        paused.start()
        paused.resume(decide(paused.decision))
    with torch.inference_mode(not began):
        assert torch.equal(finish(paused, decide), expected)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_closed_pass_leaves_nothing_behind(case, backbone, steps):
    with torch.no_grad():
        native = case.model(**case.inputs).logits
    paused = PausedForward(backbone, case.inputs, LAYERS)
    protected = paused.start().protected
    for _ in range(steps):
        paused.resume(Draw(0)(paused.decision))
    paused.close()
    assert paused._greenlet.dead
    assert paused.decision is None and paused.output is None and current.get() is None
    with pytest.raises(RuntimeError, match="nothing to decide"):
        paused.resume(Choice(protected))
    paused.close()
    with torch.no_grad():
        assert torch.equal(case.model(**case.inputs).logits, native)


def test_an_abandoned_pass_closes_itself(case, backbone):
    """The garbage collector does not see a greenlet's stack, so the stack must not refer to the pass."""
    with torch.no_grad():
        native = case.model(**case.inputs).logits
    paused = PausedForward(backbone, case.inputs, LAYERS)
    held = [weakref.ref(thing) for thing in (paused.start().hidden, paused._greenlet, paused._forward)]
    del paused
    gc.collect()
    assert [reference() for reference in held] == [None] * 3
    assert current.get() is None
    with torch.no_grad():
        assert torch.equal(case.model(**case.inputs).logits, native)


def test_a_pass_can_be_closed_from_inside_another(tiny_vit, image_inputs):
    """Control returns to the greenlet that closed it, not to the one that started it."""
    with Backbone(tiny_vit).attached() as backbone:
        waiting = PausedForward(backbone, image_inputs, LAYERS)
        waiting.start()
        order = []

        def elsewhere():
            waiting.close()
            order.append("after closing")

        greenlet.greenlet(elsewhere).switch()
        order.append("main")
    assert order == ["after closing", "main"]


def test_a_pass_that_never_started_has_nothing_to_decide(tiny_vit, image_inputs):
    with Backbone(tiny_vit).attached() as backbone:
        paused = PausedForward(backbone, image_inputs, LAYERS)
        with pytest.raises(RuntimeError, match="nothing to decide"):
            paused.resume(Choice(torch.ones(68, dtype=torch.bool)))
        paused.close()


def test_a_finished_pass_cannot_be_resumed(tiny_vit, image_inputs):
    with Backbone(tiny_vit).attached() as backbone:
        paused = PausedForward(backbone, image_inputs, LAYERS)
        protected = paused.start().protected
        finish(paused, KeepAll())
        with pytest.raises(RuntimeError, match="nothing to decide"):
            paused.resume(Choice(protected))
        paused.close()
        assert paused.output is not None


def test_errors_of_the_model_are_raised_to_the_caller(case, backbone):
    def fail(module, args):
        raise ZeroDivisionError("boom")

    handle = backbone.layers[2].register_forward_pre_hook(fail)
    paused = PausedForward(backbone, case.inputs, LAYERS)
    paused.start()
    with pytest.raises(ZeroDivisionError, match="boom"):
        paused.resume(Draw(0)(paused.decision))
    handle.remove()
    assert paused.decision is None and paused.output is None and current.get() is None
    paused.close()
    again = PausedForward(backbone, case.inputs, LAYERS)
    again.start()
    assert torch.equal(finish(again, Draw(0)), inline(backbone, case.inputs, 0)[0].logits)


def test_wrong_layers_and_detached_models_are_refused_at_the_start(tiny_vit, image_inputs):
    backbone = Backbone(tiny_vit)
    with pytest.raises(RltrError, match="from 0 to 3"):
        PausedForward(backbone, image_inputs, (4,))
    with pytest.raises(RltrError, match="not attached"):
        PausedForward(backbone, image_inputs, LAYERS).start()
