"""Running a policy in production: ``rltr.attach`` makes a model cheaper in place, ``rltr.detach`` undoes it."""

import copy
import logging
import math
import threading
from contextvars import Token
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from torch import nn
from transformers import PreTrainedModel

from rltr.attention import Stream, current
from rltr.backbone import Backbone
from rltr.cost import LatencyCost
from rltr.errors import RltrError
from rltr.export.calibration import weight_for_budget, weight_for_drop
from rltr.export.folder import Policy, load_policy
from rltr.forward import Forward
from rltr.kernels import Backend
from rltr.reduction import Reduction
from rltr.selectors.learned import Learned
from rltr.tokens import Tokens

log = logging.getLogger(__name__)
# Hooks on the model keep its attachment; kept here, too, it would keep the model for ever.
_attached: WeakKeyDictionary[PreTrainedModel, "ReferenceType[Attachment]"] = WeakKeyDictionary()


class Attachment:
    """A model that runs reduced until detached; usable as a context manager.

    Attributes:
        reduction: the reduced forward pass that every call of the model now is.
        cost_weight: the operating point.
    """

    def __init__(self, reduction: Reduction, cost_weight: float) -> None:
        self.reduction = reduction
        self.cost_weight = cost_weight
        backbone = reduction.backbone
        backbone.attach()
        base = backbone.root.base_model
        self._handles = [
            base.register_forward_pre_hook(self._begin, with_kwargs=True),
            # always_call: also when the forward raises, the next one must find a clean context.
            base.register_forward_hook(self._end, always_call=True),
        ]
        self._tokens: dict[int, Token[Stream | None]] = {}
        self._last = threading.local()

    @property
    def kept(self) -> Tokens | None:
        """The tokens that reached the last layer in this thread's last call, for pooling; None before the first."""
        last: Tokens | None = getattr(self._last, "kept", None)
        return last

    def detach(self) -> None:
        """Restore the model, bit for bit; detaching again does nothing, so that a block may end with a detached one."""
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.reduction.backbone.detach()
        _attached.pop(self.reduction.backbone.model, None)

    def __enter__(self) -> "Attachment":
        """Nothing more to do: the model is attached already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the model."""
        self.detach()

    def _begin(
        self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        forward = self.reduction.new_forward()
        kwargs = self.reduction.backbone.prepare(kwargs, forward)
        self._tokens[id(forward)] = current.set(forward)
        return args, kwargs

    def _end(self, base: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        forward = current.get()
        token = self._tokens.pop(id(forward), None)
        if token is not None:
            assert isinstance(forward, Forward)  # _begin put it there
            self._last.kept = forward.stages[-1] if output is not None else None
            current.reset(token)


def attach(
    model: PreTrainedModel,
    policy: Policy | Path | str,
    *,
    budget: float | None = None,
    max_drop: float | None = None,
    cost_weight: float | None = None,
    attention: Backend = "auto",
) -> Attachment:
    """Make ``model`` run with fewer tokens from now on: same object, same outputs, less work.

    A ``copy.deepcopy`` of the model is the native model, which a policy of its own may be attached to.

    Args:
        model: the model the policy was trained for, in evaluation mode.
        policy: a policy, or its folder.
        budget: cost to aim for, as a share of the dense layers' cost, by the policy's calibration.
        max_drop: quality (accuracy, for classes) that may be lost, 0.01 for one point, by the policy's calibration.
        cost_weight: the knob itself, above 0 and finite. Give exactly one of the three.
        attention: how rows of uneven length are computed, see :data:`rltr.kernels.Backend`; outputs are the same.

    Returns:
        The attachment; ``with rltr.attach(...):`` detaches at the end of the block.

    Raises:
        RltrError: if the policy is for another model (with both fingerprints), the operating point is outside of its
            calibration, or the model is attached already.
    """
    asked = {"budget": budget, "max_drop": max_drop, "cost_weight": cost_weight}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise RltrError(f"give exactly one of budget, max_drop and cost_weight (given: {', '.join(given) or 'none'})")
    if model in _attached:
        raise RltrError("a policy is attached to this model already: call rltr.detach(model) first")
    policy = policy if isinstance(policy, Policy) else load_policy(policy)
    backbone = Backbone(model, policy.backbone.get("tower"), attention=attention)
    policy.check_fits(backbone)
    if budget is not None:
        cost_weight = weight_for_budget(policy.calibration, budget)
    elif max_drop is not None:
        cost_weight = weight_for_drop(policy.calibration, max_drop)
    assert cost_weight is not None
    if not 0 < cost_weight < math.inf:
        raise RltrError(
            f"cost_weight={cost_weight} must be above 0 and finite; this policy was calibrated for "
            f"{_calibrated(policy)}"
        )
    _say_if_measured_elsewhere(policy, backbone)
    # A network of its own: the same policy may be attached to another model on another device.
    learned = Learned(copy.deepcopy(policy.network).to(backbone.device), policy.pricing, cost_weight)
    attachment = Attachment(Reduction(backbone, learned, policy.layers, policy.dropped), cost_weight)
    _attached[model] = ref(attachment)
    return attachment


def _say_if_measured_elsewhere(policy: Policy, backbone: Backbone) -> None:
    """Prices that were measured on another machine still steer, but a budget is then a share of that machine's time."""
    if not isinstance(policy.cost, LatencyCost):
        return
    try:
        policy.cost.check(backbone)
    except RltrError as error:
        log.warning("budget and price are those of the machine the policy was trained on: %s", error)


def _calibrated(policy: Policy) -> str:
    weights = [point.cost_weight for point in policy.calibration]
    return f"{min(weights):.3g} to {max(weights):.3g}" if weights else "an unknown range"


def detach(model: PreTrainedModel) -> None:
    """Undo :func:`attach`: the model is bit for bit what it was.

    Raises:
        RltrError: if nothing is attached to it.
    """
    attachment = _attached[model]() if model in _attached else None
    if attachment is None:
        raise RltrError("no policy is attached to this model, so there is nothing to detach")
    attachment.detach()
