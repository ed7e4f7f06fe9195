"""`python -m tests.support.quick_bridge serve`: the bridge, with every wait of its adapters made short.

Only durations differ from production, whose values are held fast in the adapters' unit tests of their settings; the
horizons of freshness are the real ones. SIGUSR1 steps the process's wall clock an hour ahead, SIGUSR2 an hour back;
SIGWINCH keeps its event loop from doing anything for `STALL_S`.
"""

import signal
import sys
import time
from functools import partial

import bridge.app
import bridge.brokers.alpaca.feed
import bridge.brokers.alpaca.feed_trouble
import bridge.daemon
import bridge.sessions.backoff
import bridge.sessions.keeping
import bridge.sessions.session
from bridge.__main__ import loop_factory
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.cli import main
from bridge.runtime.clock import SystemClock

WAITS = {
    "heartbeat_s": 1.0,
    "probe_after_s": 1.0,
    "probe_timeout_s": 1.0,
    "auth_timeout_s": 2.5,
    "stable_s": 0.5,
    "backoff_cap_s": 1.0,
    "app_blocked_s": 3.0,
    "app_refused_s": 1.0,
    "connection_limit_s": 2.0,
    "maintenance_default_s": 1.0,
    "maintenance_cap_s": 2.0,
    "certificate_retry_s": 1.0,
    "reconcile_floor_s": 2.0,
    "connect_timeout_s": 2.0,
    "history_lag_s": 1.0,
}

ALPACA_WAITS = {  # dials and polls are settings that operators have
    "aging_s": 1.0,
    "queue_timeout_s": 3.0,
    "request_timeout_s": 2.0,
    "throttle_s": 0.5,
    "connect_timeout_s": 2.0,
    "certificate_retry_s": 1.0,
    "backoff_first_s": 0.2,
    "backoff_cap_s": 1.0,
    "stable_s": 0.5,
    "slot_wait_s": 2.0,
    "ping_s": 1.0,
    "pong_timeout_s": 1.5,
    "auth_timeout_s": 2.0,
    "data_retry_s": 1.0,
    "slow_poll_s": 2.0,
    "reading_delay_s": 0.2,
    "reading_gap_s": 0.4,
    "lag_first_s": 0.3,
    "lag_cap_s": 0.9,  # six tries take longer than `order_lag_s`, as in production
    "order_lag_s": 2.5,
    "activity_lag_s": 6.0,
    "confirm_delay_s": 0.1,
    "repair_delay_s": 0.2,
    "reconcile_s": 3.0,
}
FEED_MUTE_S = 3.0
RETRY_CAP_S = 2.0
HOUR_MS = 3_600_000
STALL_S = 4.0


class SteppedClock(SystemClock):
    """The machine's clocks, with a wall clock that somebody sets."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


def step_on_signals() -> None:
    def step(number: int, frame: object) -> None:
        SteppedClock.ahead_ms += HOUR_MS if number == signal.SIGUSR1 else -HOUR_MS

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, step)
    bridge.daemon.SystemClock = SteppedClock  # type: ignore[misc]


def stall_on_signal() -> None:
    def stall(number: int, frame: object) -> None:
        time.sleep(STALL_S)  # the fault itself: the loop's thread does nothing else

    signal.signal(signal.SIGWINCH, stall)


def shorten() -> None:
    bridge.app.CtraderSettings = partial(CtraderSettings, **WAITS)  # type: ignore[misc, assignment]
    bridge.app.AlpacaSettings = partial(AlpacaSettings, **ALPACA_WAITS)  # type: ignore[misc, assignment]
    bridge.brokers.alpaca.feed.MUTE_AGAIN_S = FEED_MUTE_S
    bridge.brokers.alpaca.feed_trouble.REFUSED_LONGER = 2
    bridge.sessions.session.STEADY_S = 0.1  # type: ignore[attr-defined]
    bridge.sessions.backoff.full_jitter = partial(bridge.sessions.backoff.full_jitter, cap_s=RETRY_CAP_S)
    bridge.sessions.backoff.APPLICATION_FIRST_S = 0.5
    bridge.sessions.backoff.APPLICATION_CAP_S = 1.0
    bridge.sessions.backoff.AUTH_WINDOW_S = 2.0
    bridge.sessions.keeping.TICK_S, bridge.sessions.keeping.FOLLOW_S = 0.5, 1.0


if __name__ == "__main__":
    shorten()
    step_on_signals()
    stall_on_signal()
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
