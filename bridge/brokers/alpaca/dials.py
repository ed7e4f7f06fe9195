"""Opening sockets within a budget per host: so many dials a second, so many handshakes at once (faults.md §4.2).

Invariant: a dial that could only begin far later is refused with the time to wait, instead of holding a login.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.dialing import DialBudget
from bridge.brokers.sockets import Socket, SocketListener
from bridge.brokers.stats import Stats
from bridge.brokers.stream import open_socket
from bridge.runtime.clock import Clock

_LONGEST_QUEUE_S = 20.0


class Traffic:
    """Whole messages and bytes received over all sockets of one adapter."""

    __slots__ = ("frames", "size")

    def __init__(self) -> None:
        self.frames = 0
        self.size = 0


class Dialer:
    """Dials of one adapter, each host with its own budget; `traffic`: what came in over the sockets."""

    def __init__(self, settings: AlpacaSettings, clock: Clock, stats: Stats) -> None:
        self._settings = settings
        self._clock = clock
        self._stats = stats
        self.traffic = Traffic()
        self._hosts: dict[str, tuple[DialBudget, asyncio.Semaphore]] = {}

    async def dial(self, listener: SocketListener, url: str, headers: Mapping[str, str] | None = None) -> Socket:
        """Open a socket when its host's budget allows. Raises a shared BrokerFault (`DialFault` when it was tried)."""
        budget, handshakes = self._host(urlsplit(url).netloc)
        now = self._clock.monotonic()
        wait_s = budget.wait_s(now)
        if wait_s > _LONGEST_QUEUE_S:
            reason = Reason(ReasonCode.CONNECTING, "Waiting for a turn to connect to the broker.")
            raise BrokerFault(FaultKind.THROTTLE, reason, retry_after_s=wait_s, shared=True)
        wait_s = budget.reserve(now)
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        async with handshakes:
            self._stats.count("dials")
            return await open_socket(listener, url, self._settings, headers)

    def _host(self, netloc: str) -> tuple[DialBudget, asyncio.Semaphore]:
        host = self._hosts.get(netloc)
        if host is None:
            settings = self._settings
            host = DialBudget(settings.dials_per_second), asyncio.Semaphore(settings.handshakes_in_flight)
            self._hosts[netloc] = host
        return host
