"""Measure a backbone before a training: at which layers tokens can leave, how, and which features tell so."""

from rltr.probe.curve import TradeOff
from rltr.probe.search import Probe, probe
from rltr.probe.start import Start
from rltr.probe.trials import Rule, Trials

__all__ = ["Probe", "Rule", "Start", "TradeOff", "Trials", "probe"]
