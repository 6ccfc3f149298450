"""The token policy: what it sees, and its network."""

from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.policies.observation import Observation

__all__ = ["Observation", "PolicyConfig", "TokenPolicy"]
