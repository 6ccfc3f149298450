"""A forward pass that stops at every decision layer and waits to be told which tokens to keep.

The model's own ``forward`` runs in a greenlet, which switches out at a decision and is switched back in with the
answer: inside, the stack is exactly that of an ordinary call.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import partial

import greenlet
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal, Trace


class PausedForward:
    """One reduced forward pass, advanced a decision at a time.

    The backbone must stay attached while it runs. Start, resume and close it from one thread: a greenlet cannot move.
    Gradients are never recorded. A pass that nobody holds any more closes itself.

    Args:
        backbone: an attached backbone.
        inputs: the model's inputs.
        layers: the decision layers, rising.
        removal: whether removed tokens are merged or dropped.

    Attributes:
        decision: what there is to decide now; None once the pass has ended.
        output: the model's own output once the pass has ended.
    """

    def __init__(
        self, backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], removal: Removal = "merge"
    ) -> None:
        self._forward = backbone.forward(_pause, layers, removal)
        # Nothing in the greenlet refers to self: its stack is out of the garbage collector's sight, so an abandoned
        # pass would hold itself, and its hidden states, for ever.
        self._thread = threading.get_ident()
        self._greenlet = greenlet.greenlet(partial(backbone.run, self._forward, inputs))
        self.decision: Decision | None = None
        self.output: ModelOutput | None = None

    @property
    def trace(self) -> Trace:
        """What was kept so far."""
        return self._forward.trace

    def start(self) -> Decision:
        """Run up to the first decision."""
        self._advance()
        assert self.decision is not None, "a forward pass has at least one decision layer"
        return self.decision

    def resume(self, choice: Choice) -> Decision | None:
        """Answer the current decision and run to the next one; None means that the pass has ended.

        Raises:
            RuntimeError: if there is nothing to decide.
        """
        if self.decision is None:
            raise RuntimeError("this forward pass has not started, or has ended: there is nothing to decide")
        self._advance(choice)
        return self.decision

    def close(self) -> None:
        """Give the pass up: it unwinds through every ``finally`` of the model, as if it had been interrupted."""
        if self._greenlet:
            self._refuse_other_threads()
        self.decision = None
        if self._greenlet:
            self._greenlet.parent = greenlet.getcurrent()
            self._greenlet.throw()

    def _refuse_other_threads(self) -> None:
        here = threading.get_ident()
        if here != self._thread:
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            raise RltrError(
                "a batch of episodes belongs to the thread that began it with reset() "
                f"({names.get(self._thread, 'one that has ended')}), and cannot go on in {names.get(here, 'another')}: "
                "reset, step and close an environment in one thread, and make one environment for each thread"
            )

    def _advance(self, *answer: Choice) -> None:
        self._refuse_other_threads()
        self.decision = None
        self._greenlet.parent = greenlet.getcurrent()
        # Grad mode belongs to the thread, not to the greenlet: enter and leave it outside of the switch, never across.
        # The caller may be in inference mode now and not at the next step, so the pass is never.
        with torch.inference_mode(False), torch.no_grad():
            result = self._greenlet.switch(*answer)
        if isinstance(result, Decision):
            self.decision = result
        else:
            self.output, _ = result


def _pause(decision: Decision) -> Choice:
    """Hand a decision to whoever runs this greenlet, and come back with the answer."""
    parent = greenlet.getcurrent().parent
    assert parent is not None
    return parent.switch(decision)
