"""When the simulated exchange has its sessions: every weekday 09:30 to 16:00 in New York, 04:00 to 20:00 extended.

Pure questions about the calendar. Whether the market is open is another matter: the simulator keeps it open at all
hours unless told otherwise, and uses these times for auctions, the end of DAY orders and the clock's next times.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import takewhile
from typing import Any

from bridge.simulator.alpaca.stamps import MS_NS, NEW_YORK, eastern, eastern_text, to_ns

GTC_MS = 90 * 86_400_000
OPENS, CLOSES, EXTENDED_CLOSES = time(9, 30), time(16, 0), time(20, 0)


def next_open_ms(now_ms: int) -> int:
    """The first 09:30 of a session after now."""
    return _next(now_ms, OPENS)


def next_close_ms(now_ms: int) -> int:
    """The first 16:00 of a session after now."""
    return _next(now_ms, CLOSES)


def next_extended_close_ms(now_ms: int) -> int:
    """The first 20:00 of a session day after now."""
    return _next(now_ms, EXTENDED_CLOSES)


def expiry_ms(time_in_force: str, now_ms: int, *, extended_hours: bool) -> int | None:
    """When an order ends by itself: the close for DAY, after 90 days for GTC."""
    match time_in_force:
        case "day":
            return next_extended_close_ms(now_ms) if extended_hours else next_close_ms(now_ms)
        case "gtc":
            return now_ms + GTC_MS
        case _:
            return None


def clock(now_ms: int, at_ns: int, is_open: bool) -> dict[str, Any]:
    """The answer of GET /v2/clock."""
    return {
        "timestamp": eastern_text(at_ns),
        "is_open": is_open,
        "next_open": eastern_text(next_open_ms(now_ms) * MS_NS),
        "next_close": eastern_text(next_close_ms(now_ms) * MS_NS),
    }


def days_between(start: date, end: date) -> list[dict[str, Any]]:
    """Rows of GET /v2/calendar: sessions from start to end, both included."""
    days = takewhile(lambda day: day <= end, session_days(start))
    return [
        {
            "date": day.isoformat(),
            "open": "09:30",
            "close": "16:00",
            "session_open": "0400",
            "session_close": "2000",
            "settlement_date": next(session_days(day + timedelta(days=1))).isoformat(),
        }
        for day in days
    ]


def session_days(start: date) -> Iterator[date]:
    """Weekdays from `start` on, without end (until the calendar itself ends)."""
    day = start
    while day < date.max:
        if day.weekday() < 5:
            yield day
        day += timedelta(days=1)


def _next(now_ms: int, at: time) -> int:
    local = eastern(now_ms * MS_NS)
    for day in session_days(local.date()):
        moment_ms = to_ns(datetime.combine(day, at, NEW_YORK)) // MS_NS
        if moment_ms > now_ms:
            return moment_ms
    raise AssertionError("the calendar has ended")
