"""What tests of the simulated Alpaca's faults have in common: small deeds of user 1 and 2, and questions."""

from decimal import Decimal
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from bridge.simulator.alpaca import Simulator
from tests.support.alpaca_probe import Stream, rest, stream

ORDER = {"symbol": "AAPL", "side": "buy", "qty": "1", "type": "market", "time_in_force": "day"}


def account(sim: Simulator, user: int = 1) -> str:
    """The id of a user's paper account."""
    return sim.services.world.of_user[user][0].id


def buy(sim: Simulator, user: int = 1, units: int = 1) -> None:
    """Buy AAPL at the market: events `new` and `fill`."""
    sim.actions.order(account(sim, user), symbol="AAPL", side="buy", units=Decimal(units))


def move(sim: Simulator) -> None:
    """One trade of AAPL."""
    sim.actions.quote("AAPL", price=Decimal("200.5"))


async def ask(sim: Simulator, path: str, **more: Any) -> tuple[int, Any]:
    return await rest(sim.ports.alpaca, "GET", path, **more)


async def place(sim: Simulator) -> tuple[int, Any]:
    return await rest(sim.ports.alpaca, "POST", "/v2/orders", body=ORDER)


async def settled(talk: Stream) -> list[str]:
    """The events once everything that was sent before has arrived."""
    await talk.listen()
    return talk.events


async def refused_with(sim: Simulator, path: str = "/stream", headers: dict[str, str] | None = None) -> int:
    """The HTTP status that a handshake is refused with."""
    with pytest.raises(InvalidStatus) as refused:
        async with stream(sim.ports.alpaca, path, headers=headers):
            pass
    return refused.value.response.status_code
