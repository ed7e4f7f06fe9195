"""Where faults may step in on the streams: the interface between the ordinary streams and the faults.

The streams know this interface only; `faults` implements it. Every hook is cheap while no fault is active.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from aiohttp import web

from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.streams.socket import Outgoing, StreamSocket

StreamName = Literal["trading", "data"]


class StreamHooks(Protocol):
    """Questions asked at a few points."""

    @property
    def on_frames(self) -> Sequence[object]:
        """Faults that look at outgoing messages."""

    def frames(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        """What goes out instead of `message`."""

    def accepted(self, client: StreamSocket) -> None:
        """A connection was made."""

    def handshake(self, stream: StreamName, environment: str, caller: Caller | None) -> web.Response | None:
        """A plain HTTP answer to a handshake; `caller` as far as its headers say."""

    def takes_login(self, client: StreamSocket, caller: Caller, proceed: Callable[[], None]) -> bool:
        """True when a fault dealt with a good authentication; `proceed` carries it out, now or later."""

    def is_slot_busy(self, stream: StreamName, caller: Caller) -> bool:
        """Whether a slot is taken that looks free."""

    def listening(self, client: StreamSocket) -> None:
        """A trading stream was told that it listens."""

    def is_muted(self, client: StreamSocket) -> bool:
        """Whether market data stay away."""

    def updated(self, account_id: str) -> None:
        """Something happened on an account."""
