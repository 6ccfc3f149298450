"""The token policy: its observations and its network."""

from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.policies.observation import Observation

__all__ = ["Observation", "PolicyConfig", "TokenPolicy"]
