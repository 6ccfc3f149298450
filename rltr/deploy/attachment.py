"""Running a policy in production: ``rltr.attach`` makes a model cheaper in place, ``rltr.detach`` undoes it."""

import copy
import threading
from pathlib import Path
from types import TracebackType

from torch import nn
from transformers import PreTrainedModel

from rltr.deploy.folder import Policy, load_policy
from rltr.deploy.operating_point import chosen_weight
from rltr.deploy.weights_guard import FittingWeights, say_if_measured_elsewhere
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.forward import Forward
from rltr.runtime.installation import LOCK, installed_in
from rltr.runtime.kernels import Backend
from rltr.runtime.tokens import Tokens
from rltr.runtime.wrapped import refuse_wrapped
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel


class Attachment:
    """A policy that is attached to a model: until it is detached, every call of the model runs on fewer tokens.

    :func:`rltr.attach` makes one. It is a context manager that detaches at the end of its block.

    Attributes:
        reduced_model: the reduced forward pass that every call of the model now is.
        cost_weight: the operating point: the cost weight at which the policy decides.
    """

    def __init__(self, policy: Policy, reduced_model: ReducedModel, cost_weight: float) -> None:
        self.reduced_model = reduced_model
        self.cost_weight = cost_weight
        self._attached = True
        self._last = threading.local()
        backbone = reduced_model.backbone
        backbone.attach()
        place = installed_in(backbone.base)
        assert place is not None and place.changes is not None
        self._weights = FittingWeights(policy, backbone, place.changes)
        backbone.serve(self)

    @property
    def kept(self) -> Tokens | None:
        """The tokens that reached the last layer in this thread's last call; None before the first.

        ``kept.counts`` has how many there are in each row, ``kept.present`` which ones, ``(rows, grid)``.
        """
        last: Tokens | None = getattr(self._last, "kept", None)
        return last

    def detach(self) -> None:
        """Restore the model, bit for bit; detaching again does nothing, so that a block may end with a detached one.

        Passes that other threads have begun end as the reduced ones they are. Calls after this one are native.
        """
        with LOCK:
            if not self._attached:
                return
            self._attached = False
            self.reduced_model.backbone.serve(None)
            self.reduced_model.backbone.detach()

    def __enter__(self) -> "Attachment":
        """Nothing more to do: the model is attached already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the model."""
        self.detach()

    def begin(self) -> Forward:
        """The reduced pass that a call of the model becomes.

        Raises:
            RltrError: if the model has other weights by now than those the policy was trained for.
        """
        self._weights.refuse_others()
        return self.reduced_model.new_forward()

    def end(self, forward: Forward | None) -> None:
        """Note what a pass of this thread kept; None if it failed."""
        self._last.kept = None if forward is None else forward.stages[-1]


def attach(
    model: PreTrainedModel,
    policy: Policy | Path | str,
    *,
    budget: float | None = None,
    max_drop: float | None = None,
    cost_weight: float | None = None,
    attention: Backend = "auto",
) -> Attachment:
    """Make ``model`` run with fewer tokens from now on: the same object, called in the same way, with less work.

    Outputs have the same type and shape; their values are those of the model on the tokens that the policy keeps.

    A ``copy.deepcopy`` of the model is the native model, which a policy of its own may be attached to.

    Args:
        model: the model the policy was trained for, in evaluation mode.
        policy: a policy, or its folder.
        budget: time to aim for, as a share of the native model's over the same batches, padding included, by the
            policy's calibration; a share of the dense layers' cost where prices are FLOPs or no times were calibrated.
        max_drop: quality (accuracy, for classes) that is lost at most, 0.01 for one point, as sure as the policy was
            calibrated for (90 %, unless its recipe says otherwise).
        cost_weight: the control parameter itself, above 0 and finite: the higher, the fewer tokens are kept. Give
            exactly one of the three.
        attention: how rows of uneven length are computed, see :data:`rltr.runtime.kernels.Backend`; outputs are equal.

    Returns:
        The attachment; ``with rltr.attach(...):`` detaches at the end of the block.

    Raises:
        RltrError: if the policy is for another model (with both fingerprints), the operating point is outside of its
            calibration, or the model is attached already.
    """
    if attachments(model):
        raise RltrError("a policy is attached to this model already: call rltr.detach(model) first")
    refuse_wrapped(model)
    policy = policy if isinstance(policy, Policy) else load_policy(policy)
    weight = chosen_weight(policy.calibration, budget, max_drop, cost_weight)
    backbone = Backbone(model, policy.backbone.get("tower"), attention=attention)
    policy.check_fits(backbone)
    say_if_measured_elsewhere(policy, backbone)
    # A network of its own: the same policy may be attached to another model on another device.
    learned = Learned(copy.deepcopy(policy.network).to(backbone.device), policy.pricing, weight)
    return Attachment(policy, ReducedModel(backbone, learned, policy.layers, policy.removal), weight)


def detach(model: nn.Module) -> None:
    """Undo :func:`attach`: the model is bit for bit what it was.

    Args:
        model: what a policy was attached to, or anything that shares the part it is attached to: a larger model around
            it, or one of several towers' wrappers. All policies attached to parts of it are detached.

    Raises:
        RltrError: if nothing is attached to it.
    """
    found = attachments(model)
    if not found:
        raise RltrError("no policy is attached to this model, so there is nothing to detach")
    for attachment in found:
        attachment.detach()


def attachments(model: object) -> list[Attachment]:
    """The policies that are attached to a model or to parts of it; none to what is no module."""
    if not isinstance(model, nn.Module):
        return []
    places = [installed_in(part) for part in model.modules()]
    servers = [None if place is None else place.server for place in places]
    return [server for server in servers if isinstance(server, Attachment)]
