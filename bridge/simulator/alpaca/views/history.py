"""GET /v2/account/portfolio/history: an account's equity over time, from samples taken once a minute.

Source: reference/alpaca.md §1.2, §1.3: the one answer with JSON numbers and epoch seconds. Cash that was paid in counts
as base, not as profit.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.numbers import cents, divided
from bridge.simulator.alpaca.refusals import malformed
from bridge.simulator.alpaca.stamps import SECOND_NS, eastern, read_time

FRAME_S = {"1Min": 60, "5Min": 300, "15Min": 900, "1H": 3600, "1D": 86_400}
PERIOD_S = {"D": 86_400, "W": 604_800, "M": 2_592_000, "A": 31_536_000, "Y": 31_536_000}


def portfolio_history(account: Account, equity: Decimal, query: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """One entry per frame: the last sample in it, and the present equity as the newest. Raises ApiRefusal (422)."""
    frame = query.get("timeframe") or "1D"
    if frame not in FRAME_S:
        raise malformed("invalid timeframe")
    end_s = read_time(query["end"], "end") // SECOND_NS if query.get("end") else now_ms // 1000
    start_s = read_time(query["start"], "start") // SECOND_NS if query.get("start") else end_s - _period_s(query)
    entries: dict[int, Decimal] = {}
    for at_s, value in [*account.samples, (now_ms // 1000, equity)]:
        if start_s <= at_s <= end_s:
            entries[at_s - at_s % FRAME_S[frame]] = value
    base = account.paid_in
    profits = [cents(value - base) for value in entries.values()]
    return {
        "timestamp": list(entries),
        "equity": [float(value) for value in entries.values()],
        "profit_loss": [float(profit) for profit in profits],
        "profit_loss_pct": [float(divided(profit, base)) if base else None for profit in profits],
        "base_value": float(base),
        "base_value_asof": eastern(account.created_ns).date().isoformat(),
        "timeframe": frame,
        "cashflow": {},
    }


def _period_s(query: Mapping[str, str]) -> int:
    period = query.get("period") or "1M"
    if period == "all":
        return 10 * PERIOD_S["A"]
    number, unit = period[:-1], period[-1:]
    if not number.isdecimal() or unit not in PERIOD_S or len(number) > 4:
        raise malformed("invalid period")
    return int(number) * PERIOD_S[unit]
