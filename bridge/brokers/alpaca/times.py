"""Times as Alpaca writes them, and the ids that hold one. Pure.

RFC 3339 with up to nine decimals, in UTC or with an offset, mixed within one document (reference/alpaca.md §1.3).
Invariant: what is not a time between 2000 and 2100 raises ProtocolViolation, and nothing else is ever raised.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from core.errors import ProtocolViolation

_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,]([0-9]{1,18}))?([Zz]|[+-][0-9]{2}:?[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_EARLIEST_S, _LATEST_S = 946_684_800, 4_102_444_800  # 2000, 2100
_NS = 1_000_000_000
_EXECUTION_ID = re.compile(r"[!-~]{1,128}")


@lru_cache(maxsize=1024)  # one time stands in several places of a document, and in several documents
def to_ns(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 time. Raises ProtocolViolation."""
    match = _TIME.fullmatch(text) if len(text) <= 64 else None
    if match is None:
        raise ProtocolViolation("not a time")
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
        seconds = (moment - _EPOCH) // _SECOND
    except (ValueError, OverflowError) as error:
        raise ProtocolViolation("not a time") from error
    if not _EARLIEST_S <= seconds < _LATEST_S:
        raise ProtocolViolation("time out of range")
    return seconds * _NS + (int(fraction[:9].ljust(9, "0")) if fraction else 0)


def to_ms(value: object) -> int | None:
    """Unix milliseconds, rounded down; None when no time is given. Raises ProtocolViolation."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ProtocolViolation("a time that is no text")
    return to_ns(value) // 1_000_000


def from_ms(unix_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds, as queries take it."""
    moment = _EPOCH + timedelta(milliseconds=unix_ms)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"


def execution_id(activity_id: object) -> str:
    """The execution an activity tells of: what stands behind the `::` of its id (alpaca.md §2.3)."""
    if not isinstance(activity_id, str):
        raise ProtocolViolation("an activity without an id")
    name = activity_id.rpartition("::")[2]
    if not _EXECUTION_ID.fullmatch(name):
        raise ProtocolViolation("an activity id that cannot be read")
    return name
