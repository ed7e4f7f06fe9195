"""Times as Alpaca writes them, and the ids that hold one. Pure.

RFC 3339 with up to nine decimals, in UTC or with an offset, mixed within one document (reference/alpaca.md §1.3).
Invariant: what is not a time between 2000 and 2100 raises ProtocolViolation, and nothing else is ever raised.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from core.errors import ProtocolViolation

_FRACTION = re.compile(r"[.,]([0-9]+)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
_MS_DIGITS = 3
_EARLIEST_MS, _LATEST_MS = 946_684_800_000, 4_102_444_800_000  # 2000, 2100
_EXECUTION_ID = re.compile(r"[!-~]{1,128}")


def to_ns(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 time. Raises ProtocolViolation."""
    fraction = _FRACTION.search(text)
    ns = int(fraction[1][:9].ljust(9, "0")) if fraction is not None else 0
    return (to_ms(text) or 0) // 1000 * 1_000_000_000 + ns


def to_ms(value: object) -> int | None:
    """Unix milliseconds, rounded down; None when no time is given. Raises ProtocolViolation.

    The standard library reads RFC 3339 and more of ISO 8601, cutting digits beyond microseconds.
    """
    if not value:
        return None
    if type(value) is str and value[19:20] == "." and value[-1] == "Z":  # as nearly all are written
        fraction = value[20:-1]
        if len(fraction) >= _MS_DIGITS and fraction.isdigit() and fraction.isascii():
            return _whole_second(value[:19]) + int(fraction[:_MS_DIGITS])
    return _any_time(value)


@lru_cache(maxsize=64)  # many times are of the same few seconds
def _whole_second(text: str) -> int:
    """The second of a time in UTC that is written without its fraction and zone."""
    return _any_time(f"{text}Z")


def _any_time(value: object) -> int:
    try:
        since = datetime.fromisoformat(value) - _EPOCH  # type: ignore[arg-type]  # TypeError, see below
    except (ValueError, TypeError, OverflowError) as error:  # TypeError: no text, or without a zone
        raise ProtocolViolation("not a time") from error
    ms = since.days * _DAY_MS + since.seconds * 1000 + since.microseconds // 1000
    if not _EARLIEST_MS <= ms < _LATEST_MS:
        raise ProtocolViolation("time out of range")
    return ms


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
