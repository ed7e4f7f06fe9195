"""A cTrader broker that runs on a laptop and speaks the real protocol."""

from bridge.simulator.ctrader.server import Simulator
from bridge.simulator.ctrader.settings import RefreshVariant, SimulatorSettings

__all__ = ["RefreshVariant", "Simulator", "SimulatorSettings"]
