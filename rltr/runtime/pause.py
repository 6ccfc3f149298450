"""A forward pass that pauses at every decision layer until it is given a choice of tokens.

The model's own ``forward`` runs in a greenlet, which switches out at a decision and is switched back in with the
choice. Within the greenlet, the call stack is that of an ordinary call.
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
    """One reduced forward pass, advanced one decision at a time.

    The backbone must stay attached while the pass runs. Start, resume and close it in the same thread: a greenlet
    cannot change its thread. Gradients are never recorded. A pass is closed when it is garbage collected.

    Args:
        backbone: an attached backbone.
        inputs: the model's inputs.
        layers: the decision layers, ascending.
        removal: whether removed tokens are merged or dropped.

    Attributes:
        decision: the current decision; None before the start and after the end.
        output: the model's output; None until the pass has ended.
    """

    def __init__(
        self, backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], removal: Removal = "merge"
    ) -> None:
        self._forward = backbone.forward(_pause, layers, removal)
        # Nothing in the greenlet refers to self: the garbage collector does not see its stack, so an abandoned pass
        # would keep itself and its hidden states alive forever.
        self._thread = threading.get_ident()
        self._greenlet = greenlet.greenlet(partial(backbone.run, self._forward, inputs))
        self.decision: Decision | None = None
        self.output: ModelOutput | None = None

    @property
    def trace(self) -> Trace:
        """Which tokens were kept so far."""
        return self._forward.trace

    def start(self) -> Decision:
        """Run to the first decision and return it."""
        self._advance()
        assert self.decision is not None, "a forward pass has at least one decision layer"
        return self.decision

    def resume(self, choice: Choice) -> Decision | None:
        """Apply a choice and run to the next decision; returns None if the pass has ended.

        Raises:
            RuntimeError: if the pass has not started or has ended.
            RltrError: if this is not the thread in which the pass was created.
        """
        if self.decision is None:
            raise RuntimeError("this forward pass has not started, or has ended: there is nothing to decide")
        self._advance(choice)
        return self.decision

    def close(self) -> None:
        """Abort the pass; its ``finally`` blocks run as after an interruption."""
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
                f"this batch of episodes was begun by reset() in thread {names.get(self._thread, '(ended)')!r} and "
                f"cannot continue in thread {names.get(here, '(unknown)')!r}: reset, step and close an environment in "
                "the same thread, and make one environment per thread"
            )

    def _advance(self, *choice: Choice) -> None:
        self._refuse_other_threads()
        self.decision = None
        self._greenlet.parent = greenlet.getcurrent()
        # Grad mode is per thread, not per greenlet, so it is entered and left outside of the switch. Inference mode is
        # always off: a caller may be in it at one step and not at the next.
        with torch.inference_mode(False), torch.no_grad():
            result = self._greenlet.switch(*choice)
        if isinstance(result, Decision):
            self.decision = result
        else:
            self.output, _ = result


def _pause(decision: Decision) -> Choice:
    """Switch to the parent greenlet with a decision, and return the choice it switches back with."""
    parent = greenlet.getcurrent().parent
    assert parent is not None
    return parent.switch(decision)
