"""The asyncio shell of a connection: bytes in, wire, dispatcher; timers for heartbeats and the idle cut-off.

Own heartbeats go out after `heartbeat_s` of outgoing silence and are never an echo; a client silent for
`idle_cutoff_s` is cut (reference/ctrader.md §1). Frames are handled in the receive callback, without a task switch.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from bridge.simulator.ctrader.budget import Budget
from bridge.simulator.ctrader.connection import Connection
from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.refusals import RefusedByProxy
from bridge.simulator.ctrader.wire import TooLong, WebSocketWire, sniff
from protos.ctrader import common_messages_pb2 as common

if TYPE_CHECKING:
    from bridge.simulator.ctrader.dispatch import Dispatcher
    from bridge.simulator.ctrader.services import Services


class Socket(asyncio.Protocol):
    """One accepted socket."""

    def __init__(self, services: Services, dispatcher: Dispatcher, environment: str) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._environment = environment
        self._first = b""
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        counters = self._services.counters
        counters.connections_opened += 1
        counters.dials.append(self._services.clock.now_ms())
        settings = self._services.settings
        connection = Connection(
            self._services.hub.next_number(),
            self._environment,
            self._services,
            cast(asyncio.Transport, transport),
            Budget(settings.requests_per_second, settings.history_rate),
        )
        self._connection = connection
        self._services.hub.connections[connection.number] = connection
        self._watch(connection)
        self._services.faults.accepted(connection)

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        if connection is None or not connection.open or connection.deaf:
            return
        connection.last_in = self._services.clock.monotonic()
        if connection.wire is None:
            self._first += data
            connection.wire = sniff(self._first, self._services.faults.upgrade_refusal)
            if connection.wire is None:
                return
            data, self._first = self._first, b""
        self._feed(connection, data)

    def _feed(self, connection: Connection, data: bytes) -> None:
        wire = connection.wire
        if wire is None:
            return
        try:
            messages = wire.feed(data)
        except TooLong:
            refusal = RefusedByProxy("FRAME_TOO_LONG", "Frame is too long")
            connection.send(Outgoing(refusal.message()))
            connection.close(1009, "FRAME_TOO_LONG")
            return
        if isinstance(wire, WebSocketWire):
            replies, closing = wire.replies()
            connection.write(replies)
            if closing:
                connection.finish()
                return
        for message in messages:
            if not connection.open or connection.deaf:
                return
            self._dispatcher.handle(connection, message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._services.counters.connections_closed += 1
        if self._connection is not None:
            self._connection.ended()

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.paused = True

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.paused = False
            self._services.spots.catch_up(self._connection)

    def _watch(self, connection: Connection) -> None:
        """Look after heartbeats and silence, again and again."""
        settings, now = self._services.settings, self._services.clock.monotonic()
        if now - connection.last_in >= settings.idle_cutoff_s and not connection.deaf:
            self._services.counters.idle_cutoffs += 1
            connection.close(1000, "idle")
            return
        if now - connection.last_out >= settings.heartbeat_s and connection.wire is not None:
            if self._services.faults.mutes_heartbeat(connection):
                connection.last_out = now
            else:
                connection.send(Outgoing(common.ProtoHeartbeatEvent()))
                connection.last_out = now
        soonest = min(connection.last_in + settings.idle_cutoff_s, connection.last_out + settings.heartbeat_s)
        connection.later(max(0.01, soonest - now), lambda: self._watch(connection))
