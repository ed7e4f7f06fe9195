"""One price feed: a data socket kept open while somebody holds what it covers, and the way of each price to mirrors.

A price goes straight into the mirrors that hold the symbol (DESIGN §4). Trouble of the socket is never trouble of a
session: whoever listens is told what is fed and what is not, and polls the rest. Prices of a feed that ended are not
touched here, the account's own upkeep forgets what it cannot renew.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bridge.brokers.alpaca.data_socket import DataSocket
from bridge.brokers.alpaca.dials import Dialer
from bridge.brokers.alpaca.feed_trouble import Trouble, wait_s
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.subscriptions import Subscriptions
from bridge.brokers.dialing import DialBackoff
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from core.account import AccountMirror

log = logging.getLogger(__name__)

GATHER_S = 0.05  # what is opened and closed within this time is subscribed to together
MUTE_AGAIN_S = 300.0  # the least age of a connection that is given up for being mute


class Follower(Protocol):
    """An account that follows prices."""

    mirror: AccountMirror

    def fed_changed(self) -> None:
        """What the feed covers has changed."""


class Feed:
    """Implements `data_socket.DataOwner`."""

    def __init__(
        self,
        url: str,
        greeting: Mapping[str, Any],
        dialer: Dialer,
        settings: AlpacaSettings,
        clock: Clock,
        rng: random.Random,
        tasks: Tasks,
        stats: Stats,
        idle: Callable[[Feed], None],
    ) -> None:
        """`greeting`: the message that authenticates. `idle` is told when the last connection for nobody has ended."""
        self._url = url
        self._greeting = greeting
        self._dialer = dialer
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._stats = stats
        self._idle = idle
        self._backoff = DialBackoff(rng, settings.backoff_first_s, settings.backoff_cap_s, settings.stable_s)
        self._subscriptions = Subscriptions()
        self._followers: dict[Follower, Mapping[str, str]] = {}  # symbol -> instrument id
        self._routes: dict[str, list[tuple[AccountMirror, str]]] = {}
        self._traded_at: dict[str, float] = {}
        self._socket: DataSocket | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._said: Trouble | None = None
        self.trades = 0

    # ------------------------------------------------------------ who follows what

    def follow(self, follower: Follower, symbols: Mapping[str, str]) -> None:
        """`symbols` (to instrument ids) are all that this follower holds now; none: it leaves."""
        if self._followers.get(follower, {}) == symbols:
            return
        if symbols:
            self._followers[follower] = dict(symbols)
        else:
            self._followers.pop(follower, None)
        self._route()

    @property
    def unused(self) -> bool:
        """Whether nobody follows."""
        return not self._followers

    @property
    def up(self) -> bool:
        """Whether its socket is open and authenticated."""
        return self._socket is not None and self._socket.ready

    def covers(self, symbol: str) -> bool:
        """Whether prices of the symbol come over the socket now."""
        return self.up and symbol in self._subscriptions.fed

    def traded_at(self, symbol: str) -> float | None:
        """When its last trade came in over the present connection (monotonic s)."""
        return self._traded_at.get(symbol) if self.covers(symbol) else None

    def doubt(self) -> None:
        """The broker says other prices than the socket: a mute one is given up (alpaca.md §5.2, the first pain)."""
        socket, now = self._socket, self._clock.monotonic()
        if socket is None or not socket.ready or now - socket.opened_at < MUTE_AGAIN_S:
            return
        if now - socket.data_at >= 2 * self._settings.slow_poll_s:
            self._stats.count("reconnects.feed_mute")
            socket.end(Trouble.BROKEN)

    async def close(self) -> None:
        """End for good."""
        self._followers.clear()
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        self._timer = self._linger = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _route(self) -> None:
        routes: dict[str, list[tuple[AccountMirror, str]]] = {}
        for follower, symbols in self._followers.items():
            for symbol, instrument_id in symbols.items():
                routes.setdefault(symbol, []).append((follower.mirror, instrument_id))
        self._routes = routes
        for symbol in self._traded_at.keys() - routes.keys():
            del self._traded_at[symbol]
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._apply)

    def _apply(self) -> None:
        self._timer = None
        self._subscriptions.wanted = frozenset(self._routes)
        if self._socket is not None:
            self._socket.pump()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._routes and self._task is None:
            self._task = self._tasks.start(self._run(), name="price-feed")
        elif not self._routes:
            linger_s = self._settings.data_linger_s  # whoever is flat now may soon hold something again
            self._linger = asyncio.get_running_loop().call_later(linger_s, self._end_unused)

    # ------------------------------------------------------------ prices

    def traded(self, symbol: str, price: int) -> None:
        """A trade: the last price, for everybody who holds it."""
        routes = self._routes.get(symbol)
        if routes is None:
            return
        self.trades += 1
        self._traded_at[symbol] = self._clock.monotonic()
        for mirror, instrument_id in routes:
            mirror.set_quote(instrument_id, price, price)

    def fed(self) -> None:
        """The server listed what it sends."""
        self._said = None
        self._traded_at = {key: at for key, at in self._traded_at.items() if key in self._subscriptions.fed}
        self._tell()

    def _tell(self) -> None:
        for follower in list(self._followers):
            follower.fed_changed()

    # ------------------------------------------------------------ the socket

    async def _run(self) -> None:
        """Keep a socket open while somebody follows."""
        try:
            while self._followers:
                pause_s = await self._connection()
                if self._followers:
                    await asyncio.sleep(pause_s)
        finally:
            self._task = None
            self._idle(self)

    async def _connection(self) -> float:
        """One connection, from dial to end; returns how long to wait before the next."""
        self._subscriptions.renew()
        socket = self._socket = DataSocket(
            self, self._subscriptions, self._greeting, self._dialer, self._settings, self._clock, self._stats
        )
        try:
            trouble = await socket.run(self._url)
        finally:
            self._socket = None
            self._traded_at.clear()
            self._tell()
        if socket.ready_at is not None:
            self._backoff.up(socket.ready_at)
        if self._followers:
            self._note(trouble)
        return wait_s(trouble, self._settings, self._backoff.down(self._clock.monotonic()))

    def _note(self, trouble: Trouble) -> None:
        self._stats.count(f"reconnects.feed_{trouble.name.lower()}")
        if trouble is not self._said:
            self._said = trouble
            log.warning("prices are polled: the price feed ended", extra={"trouble": trouble.name.lower()})

    def _end_unused(self) -> None:
        self._linger = None
        if self._socket is not None and not self._followers:
            self._socket.end(Trouble.BROKEN)
