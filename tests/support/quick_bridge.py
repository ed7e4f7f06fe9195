"""`python -m tests.support.quick_bridge serve`: the bridge, with every wait of the adapter made short.

Only durations differ from production, whose values are held fast in tests/unit/ctrader/test_settings.py; the horizons
of freshness are the real ones.
"""

import sys
from functools import partial

import bridge.app
import bridge.sessions.backoff
import bridge.sessions.keeping
import bridge.sessions.session
from bridge.__main__ import loop_factory
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.cli import main

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
}


def shorten() -> None:
    bridge.app.CtraderSettings = partial(CtraderSettings, **WAITS)  # type: ignore[misc, assignment]
    bridge.sessions.session.STEADY_S = 0.1  # type: ignore[attr-defined]
    bridge.sessions.backoff.APPLICATION_FIRST_S = 0.5
    bridge.sessions.backoff.APPLICATION_CAP_S = 1.0
    bridge.sessions.backoff.AUTH_WINDOW_S = 2.0
    bridge.sessions.keeping.TICK_S, bridge.sessions.keeping.FOLLOW_S = 0.5, 1.0


if __name__ == "__main__":
    shorten()
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
