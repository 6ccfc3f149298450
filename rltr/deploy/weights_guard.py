"""Guard an attached model: if its weights are no longer those that its policy was trained for, calls are refused.

The comparison itself is :meth:`rltr.deploy.folder.Policy.check_fits`.
"""

import logging
import threading

from torch.func import debug_unwrap

from rltr.cost import LatencyCost
from rltr.deploy.folder import Policy
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.changes import Changes
from rltr.runtime.fingerprint import Unreadable
from rltr.runtime.watched_weights import WatchedWeights

log = logging.getLogger(__name__)


class FittingWeights:
    """Asked at every call whether the weights are still the policy's; reads them only if somebody changed them.

    Weights that cannot be compared, because the model was quantised, offloaded or sharded since, are taken for the
    same, and not watched any more.

    Args:
        policy: what is attached.
        backbone: what it is attached to, which has the policy's weights now.
        changes: what others change in the model from now on.
    """

    def __init__(self, policy: Policy, backbone: Backbone, changes: Changes) -> None:
        self._policy = policy
        self._backbone = backbone
        self._changes = changes
        self._lock = threading.Lock()
        self._watched: WatchedWeights | None = WatchedWeights(backbone.model)
        self._parts = changes.count
        self._fault: str | None = None

    def refuse_others(self) -> None:
        """Raise as long as the model has other weights than those the policy was trained for.

        Raises:
            RltrError: with both fingerprints, and what to do.
        """
        if self._changed():
            with self._lock:
                if self._changed():  # no other thread has looked meanwhile
                    self._look_again()
        if self._fault is not None:
            raise RltrError(self._fault)

    def _changed(self) -> bool:
        # What an adapter added that is part of the model no more is seen in nothing else.
        return self._watched is not None and (self._changes.count != self._parts or self._watched.changed())

    def _look_again(self) -> None:
        if any(debug_unwrap(weight) is not weight for weight in self._backbone.model.parameters()):
            return  # whoever differentiates by them with torch.func puts them in for one call
        # From before they are read: what changes while they are is seen by the next call.
        parts = self._changes.count
        now: WatchedWeights | None = WatchedWeights(self._backbone.model)
        self._backbone.forget_fingerprints()
        fault = None
        try:
            self._policy.check_fits(self._backbone)
            say_if_measured_elsewhere(self._policy, self._backbone)  # in another precision, or after a move
        except Unreadable:
            now = None
        except RltrError as error:
            fault = (
                f"the weights were changed while a policy was attached (load_state_dict, an optimiser, an adapter?), "
                f"and {error}. Call rltr.detach(model) first, and attach again once it has them"
            )
        self._fault, self._watched, self._parts = fault, now, parts


def say_if_measured_elsewhere(policy: Policy, backbone: Backbone) -> None:
    """Prices that were measured on another machine still steer, but a budget is then a share of that machine's time."""
    if not isinstance(policy.cost, LatencyCost):
        return
    try:
        policy.cost.check(backbone)
    except RltrError as error:
        log.warning(
            "budget and price are those of the machine the policy was calibrated on: %s; or measure both here with "
            "`rltr calibrate`",
            error,
        )
