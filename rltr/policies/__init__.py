"""The token policy: what it sees, its network, and its face towards stable-baselines3."""

from rltr.policies.actor import TokenActor
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.policies.observation import Observation

__all__ = ["Observation", "PolicyConfig", "TokenActor", "TokenPolicy"]
