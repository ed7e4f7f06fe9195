"""Market depth subscriptions: three quotes a side around the best price, rebuilt with each tick.

Source: reference/ctrader.md §4.4: new quotes are upserts by id, deleted ones go by id. Ids are derived from side and
level, so a client that applies them in order always holds the present book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.spots import Tick
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o

if TYPE_CHECKING:
    from bridge.simulator.ctrader.connection import Authorisation, Connection

LEVELS = 3
LEVEL_DISTANCE = 10  # of 1/100000
LEVEL_SIZE = 100_000_000  # of 0.01 units


class DepthBoard:
    """Who wants depth of what."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[str, int], dict[tuple[Connection, int], None]] = {}
        self._server_of: dict[int, str] = {}

    def join(self, connection: Connection, account_id: int, server: str, symbol_id: int) -> None:
        self._server_of[account_id] = server
        self._wanted.setdefault((server, symbol_id), {})[(connection, account_id)] = None

    def drop(self, connection: Connection, account_id: int, symbol_id: int) -> None:
        key = (self._server_of.get(account_id, ""), symbol_id)
        wanted = self._wanted.get(key)
        if wanted is not None:
            wanted.pop((connection, account_id), None)
            if not wanted:
                del self._wanted[key]

    def leave(self, connection: Connection, authorisation: Authorisation) -> None:
        """End all depth subscriptions of one account session."""
        for symbol_id in authorisation.depth:
            self.drop(connection, authorisation.account_id, symbol_id)

    def publish(self, tick: Tick) -> None:
        """Send the book of a tick with both sides to its subscribers."""
        for connection, account_id in list(self._wanted.get((tick.server, tick.symbol_id), ())):
            connection.send(Outgoing(full_depth(account_id, tick), account_id))


def full_depth(account_id: int, tick: Tick) -> m.ProtoOADepthEvent:
    """The whole book around a price that has both sides."""
    quotes = []
    for level in range(LEVELS):
        distance, size = level * LEVEL_DISTANCE, LEVEL_SIZE * (level + 1)
        if tick.bid is not None:
            quotes.append(o.ProtoOADepthQuote(id=2 * level + 1, size=size, bid=tick.bid - distance))
        if tick.ask is not None:
            quotes.append(o.ProtoOADepthQuote(id=2 * level + 2, size=size, ask=tick.ask + distance))
    return m.ProtoOADepthEvent(ctidTraderAccountId=account_id, symbolId=tick.symbol_id, newQuotes=quotes)
