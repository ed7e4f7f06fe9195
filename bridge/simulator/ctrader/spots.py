"""Spot subscriptions and the spot event of a tick: encoded once per symbol, whatever the number of accounts.

The events of one tick for the accounts of one connection differ only in the account id, so everything before and
after it is built once and the ids are joined between (DESIGN §1: cost follows frames, not users). Accounts that
asked for timestamps or live bars, and connections with faults on their frames, take the slow road of real messages.
A tick costs nothing where nobody subscribed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge.simulator.ctrader.envelope import TYPE_OF_CLASS, Outgoing
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o

if TYPE_CHECKING:
    from bridge.simulator.ctrader.connection import Authorisation, Connection
    from bridge.simulator.ctrader.counters import Counters

SPOT = TYPE_OF_CLASS[m.ProtoOASpotEvent]


@dataclass(frozen=True, slots=True)
class Tick:
    """A price of one symbol at one broker server, in 1/100000 (reference/ctrader.md §4.1). A side that did not
    change is None."""

    server: str
    symbol_id: int
    bid: int | None
    ask: int | None
    at_ms: int


@dataclass(slots=True)
class _Group:
    """Subscribers of one symbol on one connection."""

    plain: dict[int, bytes] = field(default_factory=dict)  # account id -> its varint
    rich: dict[int, Authorisation] = field(default_factory=dict)
    by_width: list[list[bytes]] | None = None  # plain ids grouped by encoded length; None when out of date


class SpotBoard:
    """All spot subscriptions. `bars` gives the live bars of (server, symbol id, period); `latest` the newest tick."""

    def __init__(
        self,
        counters: Counters,
        latest: Callable[[str, int], Tick | None],
        bar: Callable[[str, int, int], o.ProtoOATrendbar | None],
    ) -> None:
        self._counters = counters
        self._latest = latest
        self._bar = bar
        self._groups: dict[tuple[str, int], dict[Connection, _Group]] = {}
        self._server_of: dict[int, str] = {}

    def subscribed(self, server: str, symbol_id: int) -> bool:
        return (server, symbol_id) in self._groups

    def join(self, connection: Connection, authorisation: Authorisation, server: str, symbol_id: int) -> None:
        """(Re)file a subscription; called again when timestamps or bars are asked for."""
        account_id = authorisation.account_id
        self._server_of[account_id] = server
        group = self._groups.setdefault((server, symbol_id), {}).setdefault(connection, _Group())
        group.plain.pop(account_id, None)
        group.rich.pop(account_id, None)
        group.by_width = None
        if authorisation.spots[symbol_id] or any(symbol == symbol_id for symbol, _ in authorisation.bars):
            group.rich[account_id] = authorisation
        else:
            group.plain[account_id] = varint(account_id)

    def drop(self, connection: Connection, account_id: int, symbol_id: int) -> None:
        """End one subscription."""
        key = (self._server_of.get(account_id, ""), symbol_id)
        connections = self._groups.get(key)
        group = connections.get(connection) if connections is not None else None
        if connections is None or group is None:
            return
        group.plain.pop(account_id, None)
        group.rich.pop(account_id, None)
        group.by_width = None
        if not group.plain and not group.rich:
            del connections[connection]
        if not connections:
            del self._groups[key]

    def leave(self, connection: Connection, authorisation: Authorisation) -> None:
        """End all subscriptions of one account session."""
        for symbol_id in authorisation.spots:
            self.drop(connection, authorisation.account_id, symbol_id)

    def publish(self, tick: Tick, faulty: bool) -> None:
        """Send a tick to everyone subscribed; `faulty` when faults want to see every frame."""
        for connection, group in self._groups.get((tick.server, tick.symbol_id), {}).items():
            if connection.paused:
                connection.missed.add((tick.server, tick.symbol_id))
                self._counters.spot_events_skipped += len(group.plain) + len(group.rich)
            elif faulty:
                self._send_each(connection, group, tick)
            else:
                self._send_joined(connection, group, tick)

    def catch_up(self, connection: Connection) -> None:
        """Send the newest price of every symbol whose ticks were skipped."""
        missed, connection.missed = connection.missed, set()
        for server, symbol_id in missed:
            tick = self._latest(server, symbol_id)
            group = self._groups.get((server, symbol_id), {}).get(connection)
            if tick is not None and group is not None:
                self._send_each(connection, group, tick)

    def message(self, account_id: int, tick: Tick, authorisation: Authorisation | None = None) -> m.ProtoOASpotEvent:
        """The spot event of a tick, with what this account session asked for."""
        event = m.ProtoOASpotEvent(ctidTraderAccountId=account_id, symbolId=tick.symbol_id, bid=tick.bid, ask=tick.ask)
        if authorisation is not None:
            if authorisation.spots.get(tick.symbol_id):
                event.timestamp = tick.at_ms
            for symbol_id, period in authorisation.bars:
                bar = self._bar(tick.server, symbol_id, period) if symbol_id == tick.symbol_id else None
                if bar is not None:
                    event.trendbar.append(bar)
        return event

    def _send_each(self, connection: Connection, group: _Group, tick: Tick) -> None:
        for account_id in list(group.plain):
            connection.send(Outgoing(self.message(account_id, tick), account_id))
        for account_id, authorisation in list(group.rich.items()):
            connection.send(Outgoing(self.message(account_id, tick, authorisation), account_id))
        self._counters.spot_events += len(group.plain) + len(group.rich)

    def _send_joined(self, connection: Connection, group: _Group, tick: Tick) -> None:
        wire = connection.wire
        if wire is None or not wire.ready:
            return
        if group.by_width is None:
            widths: dict[int, list[bytes]] = {}
            for encoded in group.plain.values():
                widths.setdefault(len(encoded), []).append(encoded)
            group.by_width = list(widths.values())
        tail = _tail(tick)
        for ids in group.by_width:
            head = _head(len(ids[0]) + len(tail))
            frame_head = wire.header(len(head) + len(ids[0]) + len(tail)) + head
            connection.write(frame_head + (tail + frame_head).join(ids) + tail)
        self._counters.spot_events += len(group.plain)
        for account_id, authorisation in group.rich.items():
            connection.send(Outgoing(self.message(account_id, tick, authorisation), account_id))
            self._counters.spot_events += 1


def varint(number: int) -> bytes:
    """Protobuf's base-128 encoding of a non-negative integer."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _head(after_field_tag: int) -> bytes:
    """Envelope and the tag of field 2, ctidTraderAccountId; `after_field_tag` payload bytes follow."""
    return b"\x08" + varint(SPOT) + b"\x12" + varint(after_field_tag + 1) + b"\x10"


def _tail(tick: Tick) -> bytes:
    """Fields 3 to 5 of the spot event: symbolId, bid, ask."""
    tail = b"\x18" + varint(tick.symbol_id)
    if tick.bid is not None:
        tail += b"\x20" + varint(tick.bid)
    if tick.ask is not None:
        tail += b"\x28" + varint(tick.ask)
    return tail
