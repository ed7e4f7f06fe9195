"""The channels of one environment and application: how many, which account on which, and when anybody may dial.

All sessions of one account sit on the same channel. Accounts are spread over the least loaded channels; their number
grows on demand (DESIGN §5) and shrinks when the broker says that there are too many.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter

from bridge.brokers.base import BrokerFault, ChannelHealth, Environment, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.dialing import DialBudget
from bridge.brokers.sockets import Socket
from bridge.brokers.stats import Stats
from bridge.brokers.stream import open_socket
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks

log = logging.getLogger(__name__)

_LONGEST_QUEUE_S = 20.0  # a dial that would begin later is told to come again instead of holding a login


class Pool:
    """Channels to one host."""

    def __init__(
        self,
        environment: Environment,
        settings: CtraderSettings,
        clock: Clock,
        rng: random.Random,
        tasks: Tasks,
        stats: Stats,
    ) -> None:
        self.environment = environment
        self.channels: list[Channel] = []
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._tasks = tasks
        self._stats = stats
        self._budget = DialBudget(settings.dials_per_second)
        self._handshakes = asyncio.Semaphore(settings.handshakes_in_flight)
        self._accounts = 0
        self._past = (0, 0, 0)  # traffic of channels that are gone
        self._limit: int | None = None  # set when the broker refused one more connection
        self._blocked_until = 0.0
        self._blocked_for_s = 0.0
        self._blocked_by: BrokerFault | None = None

    # ------------------------------------------------------------ which channel

    def assign(self) -> Channel:
        """The channel for one more account; counts it there. Release it with `release`."""
        self._accounts += 1
        wanted = self._settings.channels_for(self._accounts)
        if self._limit is not None:
            wanted = min(wanted, self._limit)
        if len(self.channels) < wanted:
            channel = self._new()
            self.channels.append(channel)
        else:
            channel = min(self.channels, key=lambda one: one.accounts)
        channel.accounts += 1
        return channel

    def release(self, channel: Channel) -> None:
        """An account left its channel. An empty one closes when it is one too many, or when the broker may believe that
        somebody is logged in there."""
        self._accounts -= 1
        channel.accounts -= 1
        too_many = channel.retired or len(self.channels) > self._settings.channels
        if channel.accounts == 0 and (too_many or channel.unsure):
            self._remove(channel)

    def any(self) -> Channel:
        """A channel for requests that need no account: the least busy of those that are open, if any is."""
        if not self.channels:
            self.channels.append(self._new())
        return self.open_channel() or self.channels[0]

    def open_channel(self) -> Channel | None:
        """The least busy channel that is up now, if any: at a first start there is one such request for each login."""
        return min((channel for channel in self.channels if channel.up), key=lambda one: one.busy, default=None)

    def slots(self) -> int:
        """Logins that may run at once (DESIGN §5): enough to keep every channel's budget busy, no more."""
        return self._settings.max_in_flight * max(1, min(len(self.channels) or self._settings.channels, 10))

    def reconcile_interval_s(self, accounts: int) -> float:
        """Period of the periodic reconcile: it may use a quarter of the budget, two requests an account."""
        channels = max(1, len(self.channels))
        rate = self._settings.requests_per_second * channels
        return max(self._settings.reconcile_floor_s, 2 * accounts / (0.25 * rate))

    # ------------------------------------------------------------ what channels ask

    async def dial(self, channel: Channel) -> Socket:
        """Open a socket when the host's budget allows. Raises a shared BrokerFault."""
        now = self._clock.monotonic()
        wait_s = self._budget.wait_s(now)
        if wait_s > _LONGEST_QUEUE_S:
            reason = Reason(ReasonCode.CONNECTING, "Waiting for a turn to connect to the broker.")
            raise BrokerFault(FaultKind.THROTTLE, reason, retry_after_s=wait_s, shared=True)
        wait_s = self._budget.reserve(now)
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        async with self._handshakes:
            self._stats.count("dials")
            return await open_socket(channel, self._settings.url(self.environment), self._settings)

    def application_wait(self, now: float) -> BrokerFault | None:
        """The fault that forbids every dial of this application now. None grants one attempt, which decides for all."""
        fault = self._blocked_by
        if fault is None:
            return None
        if now >= self._blocked_until:
            self._blocked_until = now + self._blocked_for_s
            return None
        return BrokerFault(
            fault.kind,
            fault.reason,
            retry_after_s=self._blocked_until - now,
            broker_code=fault.broker_code,
            shared=True,
        )

    def application_refused(self, fault: BrokerFault, wait_s: float) -> None:
        """Nobody dials before the wait is over."""
        self._stats.count("application_refused")
        self._blocked_by = fault
        self._blocked_for_s = wait_s
        self._blocked_until = self._clock.monotonic() + wait_s

    def application_accepted(self) -> None:
        """The application is authorised again."""
        self._blocked_by = None

    def limit_reached(self, channel: Channel) -> float:
        """One channel fewer from now on; the only one waits until a half-dead predecessor has certainly gone."""
        self._stats.count("connection_limit")
        others = [one for one in self.channels if one is not channel and not one.retired]
        if not others:
            return self._settings.connection_limit_s
        self._limit = len(others)
        channel.retired = True
        self._past = self._without(channel)
        log.error("the broker allows fewer connections", extra={"channels": self._limit})
        return self._rng.uniform(0.0, self._settings.backoff_first_s)

    # ------------------------------------------------------------ whole pool

    def health(self) -> tuple[int, list[str], float | None]:
        """Open channels, the state of each, and the time of the last byte (monotonic s)."""
        heard = [channel.last_inbound for channel in self.channels if channel.last_inbound is not None]
        states = [channel.state for channel in self.channels]
        return states.count("up"), states, max(heard, default=None)

    def traffic(self) -> tuple[int, int, int]:
        """Frames, prices applied and bytes received, closed channels included."""
        frames, spots, size = self._past
        for channel in self.channels:
            frames += channel.router.frames
            spots += channel.router.spots
            size += channel.bytes_in
        return frames, spots, size

    def shared(self) -> Counter[str]:
        """Shared quotes, over the channels that are open: see `CtraderBroker.metrics`."""
        total: Counter[str] = Counter()
        for channel in self.channels:
            if channel.sharing is not None:
                total.update(channel.sharing.counts())
        return total

    async def close(self) -> None:
        """Close every channel at once."""
        channels, self.channels = self.channels, []
        await asyncio.gather(*(channel.close() for channel in channels))

    def _without(self, channel: Channel) -> tuple[int, int, int]:
        """Take a channel out of the pool; returns the past traffic with its own."""
        self.channels.remove(channel)
        frames, spots, size = self._past
        return frames + channel.router.frames, spots + channel.router.spots, size + channel.bytes_in

    def _new(self) -> Channel:
        return Channel(self, self._settings, self._clock, self._rng, self._tasks, self._stats)

    def _remove(self, channel: Channel) -> None:
        if channel in self.channels:
            self._past = self._without(channel)
        self._tasks.start(channel.close(), name="close-channel")


_WORST = ("maintenance", "down", "connecting", "up")


def worst_state(states: list[str]) -> str:
    """The state to show for several channels; "idle" when none is in use."""
    return next((state for state in _WORST if state in states), "idle")


def channel_health(pools: list[Pool], clock: Clock) -> ChannelHealth:
    """The health of all channels; the last byte as Unix ms."""
    up, states, last = 0, list[str](), None
    for pool in pools:
        open_channels, pool_states, heard = pool.health()
        up += open_channels
        states += pool_states
        last = heard if last is None else max(last, heard or last)
    if last is None:
        return ChannelHealth(up, worst_state(states), None)
    age_ms = round((clock.monotonic() - last) * 1000)
    return ChannelHealth(up, worst_state(states), clock.now_ms() - age_ms)
