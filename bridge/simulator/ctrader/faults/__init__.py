"""Faults a broker can cause by itself, by their ids in the fault catalogue (reference/faults.md §2.1).

`CATALOGUE` maps each id to its class; parameters are that class's fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.faults import connections, events, frames, requests
from bridge.simulator.ctrader.faults.base import Fault, FrameFault, RequestFault
from bridge.simulator.ctrader.wire import HttpRefusal
from bridge.simulator.faults import ActiveFaults

if TYPE_CHECKING:
    from bridge.simulator.ctrader.connection import Connection
    from bridge.simulator.ctrader.requests.call import Call

CATALOGUE: dict[str, type[Fault]] = {
    "N01": connections.Reset,
    "N02": connections.CleanClose,
    "N03": connections.HalfOpen,
    "N04": connections.OneWayLoss,
    "N08": connections.BadCertificate,
    "N10": connections.HttpRefused,
    "N11": connections.SlowDrip,
    "N12": frames.Truncated,
    "N13": frames.Oversized,
    "N14": frames.Garbage,
    "N15": events.UnknownEnum,
    "N16": frames.UnknownPayload,
    "N17": events.AbsurdValue,
    "N18": events.ForeignAccount,
    "N19": events.Duplicate,
    "N20": events.Reordered,
    "N21": events.Lost,
    "N22": events.LateSnapshot,
    "N23": requests.BrokenSnapshot,
    "N24": requests.ShortPages,
    "N26": frames.HeartbeatOdd,
    "N27": requests.Maintenance,
    "N28": requests.RateLimited,
    "N29": requests.OrderRateLimited,
    "N30": connections.TokenInvalidated,
    "N31": requests.RefreshRefused,
    "N33": connections.AccountDisconnect,
    "N34": connections.ClientDisconnect,
    "N35": requests.AlreadyLoggedIn,
    "N36": connections.AuthLost,
    "N37": connections.ConnectionLimit,
    "N40": connections.CutAll,
    "N41": connections.Flapping,
    "N42": requests.SlowAuth,
    # Beyond the catalogue: a refusal of choice, and a connection lost between request and answer.
    "DROP_AFTER_REQUEST": requests.DropAfterRequest,
    "ORDER_REJECTED": requests.OrderRejected,
}


class FaultTable(ActiveFaults[Fault]):
    """The active faults of one simulated cTrader."""

    def __init__(self) -> None:
        super().__init__(CATALOGUE)
        self.on_frames: list[FrameFault] = []
        self.on_requests: list[RequestFault] = []
        self._slots: list[float] = []  # monotonic ends of the slots that closed connections still hold (N37)
        self.answer_of: Callable[[Call[Any]], Message | None] = _unset

    def frames(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        """What goes out instead of `outgoing`."""
        queue = [outgoing]
        for fault in self.on_frames:
            queue = [changed for each in queue for changed in fault.frame(connection, each)]
        return queue

    def take(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        """True when a fault dealt with the request."""
        return any(fault.request(call, proceed) for fault in list(self.on_requests))

    def heartbeat(self, connection: Connection) -> None:
        """A client heartbeat came in."""
        for fault in self._of(frames.HeartbeatOdd):
            fault.received(connection)

    def mutes_heartbeat(self, connection: Connection) -> bool:
        return any(fault.mutes(connection) for fault in self._of(frames.HeartbeatOdd))

    def accepted(self, connection: Connection) -> None:
        """A connection was made."""
        for fault in self._of(connections.ConnectionFault):
            fault.accepted(connection)

    def upgrade_refusal(self) -> HttpRefusal | None:
        return next((refusal for fault in self._of(connections.HttpRefused) if (refusal := fault.refusal())), None)

    def certificate(self) -> str:
        """Which leaf the TLS port shows: "good", a kind of bad, or "refused"."""
        return next((fault.kind for fault in self._of(connections.BadCertificate) if not fault.over), "good")

    def page_rows(self, ordinary: int) -> int:
        """Rows of a history page."""
        return next((fault.rows for fault in self._of(requests.ShortPages) if not fault.over), ordinary)

    def refuses_refresh(self, refresh_token: str) -> bool:
        """For the OAuth endpoint; the in-band refresh is refused as a request."""
        return any(fault.refuses(refresh_token) for fault in self._of(requests.RefreshRefused))

    def connection_ended(self, app_authorised: bool, now: float) -> None:
        """A connection ended; its slot may stay taken for a while."""
        hold = max((fault.hold_s for fault in self._of(connections.ConnectionLimit)), default=0.0)
        if app_authorised and hold:
            self._slots.append(now + hold)

    def exceeds_limit(self, authorised: int, now: float) -> bool:
        """Whether one more connection is over the limit of an active N37."""
        self._slots = [end for end in self._slots if end > now]
        for fault in self._of(connections.ConnectionLimit):
            if not fault.over and authorised + len(self._slots) >= fault.limit:
                fault.note()
                return True
        return False

    def _changed(self) -> None:
        self.on_frames, self.on_requests = self._of(FrameFault), self._of(RequestFault)


def _unset(call: Call[Any]) -> Message | None:
    raise RuntimeError("the dispatcher was not wired")
