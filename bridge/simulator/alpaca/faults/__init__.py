"""Faults a broker can cause by itself, by their ids in the fault catalogue (reference/faults.md §2.1).

`CATALOGUE` maps each id to its class; parameters are that class's fields.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.faults import answers, connections, documents, lag, messages, updates
from bridge.simulator.alpaca.faults.base import (
    ConnectionFault,
    Fault,
    FrameFault,
    HandshakeFault,
    LoginFault,
    RestFault,
)
from bridge.simulator.alpaca.hooks import RestCall
from bridge.simulator.alpaca.streams.socket import Outgoing, StreamSocket
from bridge.simulator.faults import ActiveFaults

CATALOGUE: dict[str, type[Fault]] = {
    "N01": connections.Reset,
    "N02": connections.CleanClose,
    "N03": connections.HalfOpen,
    "N04": connections.OneWayLoss,
    "N10": answers.HttpRefused,
    "N11": connections.SlowDrip,
    "N12": messages.Truncated,
    "N13": messages.Oversized,
    "N14": messages.Garbage,
    "N15": updates.UnknownEnum,
    "N16": messages.UnknownMessage,
    "N17": updates.AbsurdValue,
    "N18": updates.ForeignAccount,
    "N19": updates.Duplicate,
    "N20": updates.Reordered,
    "N21": updates.Lost,
    "N22": lag.LaggingRest,
    "N23": documents.BrokenSnapshot,
    "N24": documents.ShortPages,
    "N28": answers.RateLimited,
    "N29": answers.OrderRateLimited,
    "N30": connections.Revoked,
    "N36": answers.AuthLost,
    "N37": connections.SlotBusy,
    "N40": connections.CutAll,
    "N41": connections.Flapping,
    "N42": connections.SlowLogin,
    # Beyond the catalogue: the REST side of some of the above, and oddities of this broker.
    "DROP_AFTER_REQUEST": answers.DropAfterRequest,
    "ORDER_REJECTED": answers.OrderRejected,
    "SLOW_REST": answers.SlowRest,
    "BROKEN_BODY": documents.BrokenBody,
    "ODD_ANSWER": documents.OddAnswer,
    "LOGIN_REFUSED": connections.LoginRefused,
    "STREAM_ERROR": messages.StreamError,
    "NULL_DATA": messages.NullData,
    "HEARTBEAT_BYTE": messages.HeartbeatByte,
    "MUTE_DATA": connections.MuteData,
}


class FaultTable(ActiveFaults[Fault]):
    """The active faults of one simulated Alpaca."""

    def __init__(self) -> None:
        super().__init__(CATALOGUE)
        self.on_frames: list[FrameFault] = []

    def tick(self) -> None:
        """Time passes: faults end, lagging REST takes its copies."""
        super().tick()
        for fault in self._of(lag.LaggingRest):
            fault.tick()

    # ---- REST

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        """The answer of a fault that lets nothing be done."""
        for fault in self._of(RestFault):
            answer = await fault.before(call)
            if answer is not None:
                return answer
        return None

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        """What goes out in place of an ordinary answer; each fault sees what the one before made of it."""
        latest: web.StreamResponse = response
        for fault in self._of(RestFault):
            if not isinstance(latest, web.Response):
                break  # it is on its way already
            latest = await fault.after(call, latest) or latest
        return None if latest is response else latest

    # ---- streams

    def frames(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        """What goes out instead of `message`."""
        queue = [message]
        for fault in self.on_frames:
            queue = [changed for each in queue for changed in fault.frame(client, each)]
        return queue

    def accepted(self, client: StreamSocket) -> None:
        """A stream was opened."""
        for fault in self._of(ConnectionFault):
            fault.accepted(client)

    def handshake(self, stream: str, environment: str, caller: Caller | None) -> web.Response | None:
        """A plain HTTP answer to a handshake."""
        for fault in self._of(HandshakeFault):
            answer = fault.handshake(stream, environment, caller)
            if answer is not None:
                return answer
        return None

    def takes_login(self, client: StreamSocket, caller: Caller, proceed: Callable[[], None]) -> bool:
        """True when a fault dealt with a good authentication."""
        return any(fault.login(client, caller, proceed) for fault in self._of(LoginFault))

    def is_slot_busy(self, stream: str, caller: Caller) -> bool:
        """Whether a slot is taken that looks free."""
        return any(fault.takes(stream, caller) for fault in self._of(connections.SlotBusy))

    def listening(self, client: StreamSocket) -> None:
        """A trading stream was told that it listens."""
        for fault in self._of(updates.Duplicate):
            fault.listening(client)

    def is_muted(self, client: StreamSocket) -> bool:
        """Whether market data stay away from a client."""
        return any(fault.mutes(client) for fault in self._of(connections.MuteData))

    def updated(self, account_id: str) -> None:
        """Something happened on an account."""
        for fault in self._of(lag.LaggingRest):
            fault.updated(account_id)

    def _changed(self) -> None:
        self.on_frames = self._of(FrameFault)
