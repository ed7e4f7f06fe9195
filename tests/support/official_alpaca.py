"""The simulated Alpaca as the official clients' tests meet it, and what these ask of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca import Simulator, SimulatorSettings
from tests.support.waiting import eventually


@asynccontextmanager
async def simulated(**more: Any) -> AsyncIterator[Simulator]:
    """With standing prices; the scripts ask again and again until something has happened."""
    settings = SimulatorSettings(
        users=2, prices="frozen", partial_fill_share=0.0, requests_per_minute=10_000, slot_seconds=0.2, **more
    )
    async with Simulator(settings) as running:
        yield running


def paper_account(simulator: Simulator) -> str:
    """The id of user 1's paper account."""
    return str(simulator.services.world.of_user[1][0].id)


def last_price(simulator: Simulator, symbol: str) -> Decimal:
    """Of the last trade."""
    return simulator.services.world.prices.quote(symbol).price


async def listened_to(simulator: Simulator) -> None:
    """Until the simulator has a client that listens to the account."""
    trading, account = simulator.services.streams.trading, paper_account(simulator)
    await eventually(lambda: trading.listeners(account), within_s=10, what="the client listens")
