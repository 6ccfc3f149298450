"""Refuse calls of an attached model whose weights are no longer those that its policy was trained for.

The comparison itself is in :meth:`rltr.deploy.folder.Policy.check_fits`.
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


class WeightsGuard:
    """Check at every call that the weights are still those of the policy; they are hashed only after a change.

    If the weights can no longer be compared, because the model was quantised, offloaded or sharded, they are assumed to
    be the same, and no longer watched.

    Args:
        policy: the attached policy.
        backbone: the model; its weights are the policy's at this time.
        changes: counts later changes to the model.
    """

    def __init__(self, policy: Policy, backbone: Backbone, changes: Changes) -> None:
        self._policy = policy
        self._backbone = backbone
        self._changes = changes
        self._lock = threading.Lock()
        self._watched: WatchedWeights | None = WatchedWeights(backbone.model)
        self._parts = changes.count
        self._fault: str | None = None

    def check(self) -> None:
        """Raise if the model has other weights than those the policy was trained for.

        Raises:
            RltrError: if it has, with both fingerprints.
        """
        if self._changed():
            with self._lock:
                if self._changed():  # another thread may have checked meanwhile
                    self._check_again()
        if self._fault is not None:
            raise RltrError(self._fault)

    def _changed(self) -> bool:
        # The count of changes also notices modules, such as an adapter's, that were added and removed again.
        return self._watched is not None and (self._changes.count != self._parts or self._watched.changed())

    def _check_again(self) -> None:
        if any(debug_unwrap(weight) is not weight for weight in self._backbone.model.parameters()):
            return  # torch.func.functional_call replaces weights for one call
        # Taken before weights are hashed, so that the next call notices changes made meanwhile.
        parts = self._changes.count
        now: WatchedWeights | None = WatchedWeights(self._backbone.model)
        self._backbone.forget_fingerprints()
        fault = None
        try:
            self._policy.check_fits(self._backbone)
            warn_if_measured_elsewhere(self._policy, self._backbone)  # the dtype or device may have changed
        except Unreadable:
            now = None
        except RltrError as error:
            fault = (
                f"the weights were changed while a policy was attached (load_state_dict, an optimiser, an adapter?), "
                f"and {error}. Call rltr.detach(model) first, and attach again once it has them"
            )
        self._fault, self._watched, self._parts = fault, now, parts


def warn_if_measured_elsewhere(policy: Policy, backbone: Backbone) -> None:
    """Warn if prices were measured on another machine; a budget is then a fraction of that machine's time."""
    if not isinstance(policy.cost, LatencyCost):
        return
    try:
        policy.cost.check(backbone)
    except RltrError as error:
        log.warning(
            "budgets and prices are those of the machine on which the policy was calibrated: %s; or measure them here "
            "with `rltr calibrate`",
            error,
        )
