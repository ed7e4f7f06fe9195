"""Where faults may step in: the interface between the simulator's ordinary parts and its faults.

The ordinary parts know this interface only; `faults` implements it. Every hook is cheap while no fault is active.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from google.protobuf.message import Message

from bridge.simulator.ctrader.connection import Connection
from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.wire import HttpRefusal


class FaultHooks(Protocol):
    """Questions asked at a few points; a call is a `requests.call.Call`."""

    answer_of: Callable[[Any], Message | None]

    @property
    def on_frames(self) -> Sequence[object]:
        """Faults that look at outgoing messages."""

    @property
    def on_requests(self) -> Sequence[object]:
        """Faults that look at requests."""

    def frames(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        """What goes out instead of `outgoing`."""

    def take(self, call: Any, proceed: Callable[[], None]) -> bool:
        """True when a fault dealt with the request."""

    def heartbeat(self, connection: Connection) -> None:
        """A client heartbeat came in."""

    def mutes_heartbeat(self, connection: Connection) -> bool:
        """Whether the server's own heartbeat stays away."""

    def accepted(self, connection: Connection) -> None:
        """A connection was made."""

    def connection_ended(self, app_authorised: bool, now: float) -> None:
        """A connection ended."""

    def exceeds_limit(self, authorised: int, now: float) -> bool:
        """Whether one more authorised connection is too many."""

    def upgrade_refusal(self) -> HttpRefusal | None:
        """A plain HTTP answer to a WebSocket upgrade."""

    def certificate(self) -> str:
        """Which leaf the TLS port shows."""

    def page_rows(self, ordinary: int) -> int:
        """Rows of a history page."""

    def refuses_refresh(self, refresh_token: str) -> bool:
        """Whether the OAuth endpoint turns this refresh token down."""

    def tick(self) -> None:
        """Time passes."""
