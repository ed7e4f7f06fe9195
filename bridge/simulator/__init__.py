"""Brokers that run on a laptop and speak the real protocols; knows nothing of the bridge it judges."""

from bridge.simulator.server import Simulator
from bridge.simulator.settings import RefreshVariant, SimulatorSettings

__all__ = ["RefreshVariant", "Simulator", "SimulatorSettings"]
