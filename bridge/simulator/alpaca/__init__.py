"""An Alpaca that runs on a laptop: REST, trading stream and data streams, as the public clients expect them."""

from bridge.simulator.alpaca.server import Simulator
from bridge.simulator.alpaca.settings import SimulatorSettings

__all__ = ["Simulator", "SimulatorSettings"]
