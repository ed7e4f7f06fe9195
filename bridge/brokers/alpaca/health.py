"""The health of the accounts' streams as one state. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from bridge.brokers.base import ChannelHealth
from bridge.runtime.clock import Clock

_WORST = ("down", "connecting", "up")


class Judged(Protocol):
    """An account hub, as far as its health goes."""

    @property
    def state(self) -> str:
        """ "up", "connecting" or "down"."""

    @property
    def last_heard(self) -> float | None:
        """When the broker was last heard (monotonic s); None while its stream is not open."""


def channel_health(hubs: Sequence[Judged], clock: Clock) -> ChannelHealth:
    """Each account has a stream of its own, so one in trouble says little: the state is that of most, of equals the
    worse; "idle" when there is none. The last sign of life as Unix ms."""
    states = Counter(hub.state for hub in hubs)
    state = max(_WORST, key=lambda one: (states[one], -_WORST.index(one))) if states else "idle"
    last = max((heard for hub in hubs if (heard := hub.last_heard) is not None), default=None)
    last_ms = None if last is None else clock.now_ms() - round((clock.monotonic() - last) * 1000)
    return ChannelHealth(states["up"], state, last_ms)
