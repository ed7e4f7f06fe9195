"""A simulated Alpaca on free ports, with standing prices and whole fills."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.simulator.alpaca import Simulator, SimulatorSettings
from tests.support.alpaca_probe import Stream, listening


@pytest.fixture
def settings() -> dict[str, Any]:
    """What a test sets otherwise."""
    return {}


@pytest.fixture
async def sim(settings: dict[str, Any]) -> AsyncIterator[Simulator]:
    usual = {"users": 2, "prices": "frozen", "partial_fill_share": 0, "slot_seconds": 30}
    async with Simulator(SimulatorSettings(**usual | settings)) as running:
        yield running


@pytest.fixture
async def talk(sim: Simulator) -> AsyncIterator[Stream]:
    """User 1's trading stream, which listens."""
    async with listening(sim.ports.alpaca) as talking:
        yield talking
