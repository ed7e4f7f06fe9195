"""When an account's stream may be dialled again: one pace for all sessions on it. Pure, monotonic seconds."""

from __future__ import annotations

import random

from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault
from bridge.brokers.dialing import DialBackoff


class Pace:
    """Full-jitter backoff, forgotten after a while of being up; what the broker asks for is kept to."""

    __slots__ = ("_backoff", "_fault", "_not_before")

    def __init__(self, settings: AlpacaSettings, rng: random.Random) -> None:
        self._backoff = DialBackoff(rng, settings.backoff_first_s, settings.backoff_cap_s, settings.stable_s)
        self._fault: BrokerFault | None = None
        self._not_before = 0.0

    def blocked(self, now: float) -> BrokerFault | None:
        """Why it must not be dialled yet, with the seconds that are left; None: it may."""
        if self._fault is None or now >= self._not_before:
            return None
        return again(self._fault, self._not_before - now)

    def up(self, now: float) -> None:
        """The account is live."""
        self._fault = None
        self._backoff.up(now)

    def lost(self, fault: BrokerFault, now: float) -> BrokerFault:
        """The stream could not be opened, or was cut. Returns the fault to tell, with the wait."""
        wait_s = max(self._backoff.down(now), fault.retry_after_s or 0.0)
        self._not_before = now + wait_s
        self._fault = again(fault, wait_s)
        return self._fault


def again(fault: BrokerFault, retry_after_s: float) -> BrokerFault:
    """The same fault, everybody's on the account, with a new waiting time."""
    return BrokerFault(
        fault.kind, fault.reason, retry_after_s=retry_after_s, broker_code=fault.broker_code, shared=True
    )
