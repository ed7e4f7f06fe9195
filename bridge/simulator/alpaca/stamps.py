"""Times and ids as Alpaca prints them: nanosecond RFC 3339 stamps, New York time, activity ids, ULIDs.

Streams and orders carry nanoseconds, activities microseconds, rounded (reference/alpaca.md §2.3). The wall clock and
the random numbers are passed in. Invariant: two stamps of one `Stamps` are never equal and never run backwards.
"""

from __future__ import annotations

import random
import re
import uuid
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from bridge.simulator.alpaca.refusals import malformed

NEW_YORK = ZoneInfo("America/New_York")
MS_NS = 1_000_000
SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.IGNORECASE)


class Stamps:
    """Hands out nanosecond stamps, UUIDs and event ids."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last_ns = 0
        self._last_ulid = 0

    def next_ns(self, now_ms: int) -> int:
        """A stamp within this millisecond, later than every one before."""
        drawn = now_ms * MS_NS + self._rng.randrange(MS_NS)
        self._last_ns = drawn if drawn > self._last_ns else self._last_ns + self._rng.randrange(1, 1_000)
        return self._last_ns

    def new_uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def new_ulid(self, at_ns: int) -> str:
        """An event id that sorts behind every earlier one."""
        drawn = (at_ns // MS_NS) << 80 | self._rng.getrandbits(80)
        self._last_ulid = drawn if drawn > self._last_ulid else self._last_ulid + 1
        return "".join(_CROCKFORD[self._last_ulid >> shift & 31] for shift in range(125, -1, -5))


def utc_text(at_ns: int) -> str:
    """RFC 3339 in UTC with up to nine decimals: 2026-11-21T07:52:17.12Z."""
    return f"{_utc(at_ns):%Y-%m-%dT%H:%M:%S}{_fraction(at_ns)}Z"


def maybe_utc(at_ns: int | None) -> str | None:
    return None if at_ns is None else utc_text(at_ns)


def eastern_text(at_ns: int) -> str:
    """The same moment with New York's offset."""
    local = eastern(at_ns)
    offset = f"{local:%z}"
    return f"{local:%Y-%m-%dT%H:%M:%S}{_fraction(at_ns)}{offset[:3]}:{offset[3:]}"


def micro_text(at_ns: int) -> str:
    """UTC, rounded to microseconds."""
    return utc_text((at_ns + 500) // 1_000 * 1_000)


def activity_id(at_ns: int, unique: str) -> str:
    """17 digits of New York time, two colons, a UUID."""
    rounded_ns = (at_ns + 500) // 1_000 * 1_000
    return f"{eastern(rounded_ns):%Y%m%d%H%M%S}{rounded_ns // MS_NS % 1_000:03d}::{unique}"


def eastern(at_ns: int) -> datetime:
    """New York wall time, without the part below a second."""
    return _utc(at_ns).astimezone(NEW_YORK)


def read_time(value: str, name: str) -> int:
    """Unix ns of an RFC 3339 time or of a date (its start in New York). Raises ApiRefusal (422)."""
    try:
        found = _RFC3339.fullmatch(value.strip())
        if found is None:
            day = date.fromisoformat(value.strip())
            return to_ns(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK))
        day_text, clock, fraction, zone = found.groups()
        whole = datetime.fromisoformat(f"{day_text}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError as cause:
        raise malformed(f"{name} is not a valid time") from cause
    return to_ns(whole) + int((fraction or "").ljust(9, "0"))


def to_ns(moment: datetime) -> int:
    """Unix ns of a time without microseconds."""
    return (moment - _EPOCH) // timedelta(seconds=1) * SECOND_NS


def _utc(at_ns: int) -> datetime:
    return _EPOCH + timedelta(seconds=at_ns // SECOND_NS)


def _fraction(at_ns: int) -> str:
    digits = f"{at_ns % SECOND_NS:09d}".rstrip("0")
    return f".{digits}" if digits else ""
