"""Run a policy in production: ``rltr.attach`` makes a model's calls reduced passes, ``rltr.detach`` restores it."""

import copy
import threading
from pathlib import Path
from types import TracebackType

from torch import nn
from transformers import PreTrainedModel

from rltr.deploy.folder import Policy, load_policy
from rltr.deploy.operating_point import chosen_weight
from rltr.deploy.weights_guard import WeightsGuard, warn_if_measured_elsewhere
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
    """A policy attached to a model: until it is detached, every call of the model is a reduced forward pass.

    :func:`rltr.attach` returns one. It is a context manager that detaches at the end of its block.

    Attributes:
        reduced_model: the model with the policy as its selector.
        cost_weight: the operating point, the cost weight at which the policy decides.
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
        self._weights = WeightsGuard(policy, backbone, place.changes)
        backbone.serve(self)

    @property
    def kept(self) -> Tokens | None:
        """The tokens that reached the last layer in this thread's last call; None before the first.

        ``kept.counts`` is their number in each row, and ``kept.present`` a mask ``(rows, grid)`` of the original
        tokens.
        """
        last: Tokens | None = getattr(self._last, "kept", None)
        return last

    def detach(self) -> None:
        """Restore the model bit for bit. If it is already detached, do nothing.

        Reduced passes that other threads have begun finish as such. Later calls are native.
        """
        with LOCK:
            if not self._attached:
                return
            self._attached = False
            self.reduced_model.backbone.serve(None)
            self.reduced_model.backbone.detach()

    def __enter__(self) -> "Attachment":
        """Return itself; the model is already attached."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the model."""
        self.detach()

    def begin(self) -> Forward:
        """Start the reduced pass for one call of the model.

        Raises:
            RltrError: if the weights were changed, and are no longer those the policy was trained for.
        """
        self._weights.check()
        return self.reduced_model.new_forward()

    def end(self, forward: Forward | None) -> None:
        """Store which tokens this thread's pass kept; ``forward`` is None if it failed."""
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
    """Make ``model`` run with fewer tokens from now on. It stays the same object and is called in the same way.

    Outputs have the same type and shape; their values are those of the model on the tokens that the policy keeps.

    A ``copy.deepcopy`` of an attached model is the native model; a policy can be attached to it separately.

    Args:
        model: the model the policy was trained for, in evaluation mode.
        policy: a policy, or its folder.
        budget: target time as a fraction of the native model's for the same batches, padding included, by the policy's
            calibration. If prices are FLOPs or no times were calibrated, a fraction of the dense layers' cost.
        max_drop: largest loss of mean quality (accuracy, for classes), 0.01 for one point, at the confidence of the
            policy's calibration (90 % by default).
        cost_weight: weight of the cost against quality, above 0 and finite: the higher, the fewer tokens are kept. Give
            exactly one of the three.
        attention: attention backend for rows of different lengths, see :data:`rltr.runtime.kernels.Backend`; outputs
            are equal.

    Returns:
        The attachment; ``with rltr.attach(...):`` detaches at the end of the block.

    Raises:
        RltrError: if the policy was trained for another model, the operating point is outside its calibration, or a
            policy is attached to the model already.
    """
    if attachments(model):
        raise RltrError("a policy is attached to this model already: call rltr.detach(model) first")
    refuse_wrapped(model)
    policy = policy if isinstance(policy, Policy) else load_policy(policy)
    weight = chosen_weight(policy.calibration, budget, max_drop, cost_weight)
    backbone = Backbone(model, policy.backbone.get("tower"), attention=attention)
    policy.check_fits(backbone)
    warn_if_measured_elsewhere(policy, backbone)
    # A copy of the network, because the same policy may be attached to another model on another device.
    learned = Learned(copy.deepcopy(policy.network).to(backbone.device), policy.pricing, weight)
    return Attachment(policy, ReducedModel(backbone, learned, policy.layers, policy.removal), weight)


def detach(model: nn.Module) -> None:
    """Undo :func:`attach`, and restore the model bit for bit.

    Args:
        model: the model a policy was attached to, or a module that contains it or its reduced submodule. All policies
            attached to parts of it are detached.

    Raises:
        RltrError: if no policy is attached to it.
    """
    found = attachments(model)
    if not found:
        raise RltrError("no policy is attached to this model, so there is nothing to detach")
    for attachment in found:
        attachment.detach()


def attachments(model: object) -> list[Attachment]:
    """All policies attached to a model or its submodules; an empty list for anything that is not a module."""
    if not isinstance(model, nn.Module):
        return []
    places = [installed_in(part) for part in model.modules()]
    servers = [None if place is None else place.server for place in places]
    return [server for server in servers if isinstance(server, Attachment)]
