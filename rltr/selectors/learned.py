"""A trained policy as a selector."""

from rltr.cost.pricing import Pricing
from rltr.policies.network import TokenPolicy
from rltr.policies.observation import Observation
from rltr.runtime.decision import Choice, Decision
from rltr.selectors.base import Selector


class Learned(Selector):
    """Keeps the tokens whose keep probability under a policy is above one half.

    Args:
        policy: the token policy.
        pricing: the prices it was trained with.
        cost_weight: reward units per dense forward pass of a typical input: the higher, the fewer tokens are kept.
    """

    def __init__(self, policy: TokenPolicy, pricing: Pricing, cost_weight: float) -> None:
        self.policy = policy
        self.pricing = pricing
        self.cost_weight = cost_weight

    def __call__(self, decision: Decision) -> Choice:
        """Return which tokens to keep."""
        if decision.hidden.device != self.policy.keep.weight.device:  # the model was moved
            self.policy.to(decision.hidden.device)
        count = decision.tokens.count
        price = self.cost_weight * self.pricing.per_token(decision.index, count, decision.tokens.longest)
        observation = Observation.of_decision(decision, price, count.float() / decision.begun)
        return Choice(self.policy(observation) > 0)
