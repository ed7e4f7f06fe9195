"""`python -m scripts.benchmarks.serving serve`: the bridge as it is, dialling as fast as a measurement needs.

Two settings of the cTrader adapter have no variable: how many dials a second begin on one host (BENCH_DIALS_PER_SECOND;
5,000 sockets would take 17 minutes at the usual 5) and the least time between two reconciles of an account
(BENCH_RECONCILE_FLOOR_S: logins are hurried here by a request budget a hundred times the broker's, from which a
reconcile of every account each minute would follow; at the broker's own it is rarer). All else is production's.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

import bridge.app
from bridge.__main__ import loop_factory
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.cli import main

REAL_REQUESTS_PER_SECOND = 45


def production_reconcile_s(sessions: int) -> float:
    """How often an account is reconciled on one channel at the broker's own budget (DESIGN §5)."""
    return max(60.0, 2 * sessions / (0.25 * REAL_REQUESTS_PER_SECOND))


if __name__ == "__main__":
    changed: dict[str, Any] = {}
    if dials := os.environ.get("BENCH_DIALS_PER_SECOND"):
        changed |= {"dials_per_second": int(dials), "handshakes_in_flight": int(dials)}
    if floor := os.environ.get("BENCH_RECONCILE_FLOOR_S"):
        changed["reconcile_floor_s"] = float(floor)
    bridge.app.CtraderSettings = partial(CtraderSettings, **changed)  # type: ignore[misc, assignment]
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
