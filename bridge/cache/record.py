"""The record: one reading of a session as the exact JSON document that readers get (DESIGN §6).

Pure: a reading and `now` in, bytes out. It never keeps, writes or caches anything. What it promises: field order and
names of DESIGN §6, absent data is null, numbers print exactly what the broker sent, strict JSON, and `staleAfter` never
later than the freshness horizon allows. One valuation per record (`bridge/cache/shown.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from bridge.brokers.base import Reason
from bridge.cache.shown import shown_of
from core.account import AccountMirror
from core.money import json_number

SCHEMA = 1
HORIZON_AT_RISK_MS = 10_000  # an account with positions or working orders
HORIZON_EMPTY_MS = 60_000  # an account that can only change by its owner's hand


class RecordStatus(StrEnum):
    """What a reader is told about a session (DESIGN §5, §6). Only `live` can be fresh."""

    STARTING = "starting"
    CONNECTING = "connecting"
    SYNCING = "syncing"
    LIVE = "live"
    STALE = "stale"
    MAINTENANCE = "maintenance"
    ACTION_REQUIRED = "action_required"
    STOPPED = "stopped"


@dataclass(slots=True)
class Reading:
    """What a session is at this moment. `as_of_ms`: last inbound byte while authorised, Unix ms; kept after a loss.

    `earlier`: the figures of an earlier life, shown until there is a mirror (see `earlier_figures`).
    """

    broker: str
    environment: str
    account_id: str | None
    status: RecordStatus
    reason: Reason | None
    mirror: AccountMirror | None
    as_of_ms: int | None
    earlier: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A document ready to store, with what the flusher needs to know of it. `stale_after_ms`: Unix ms or None."""

    document: bytes
    stale_after_ms: int | None
    live: bool


def stale_after_ms(reading: Reading) -> int | None:
    """When this reading stops being fresh (Unix ms); None when the broker was never heard."""
    if reading.as_of_ms is None:
        return None if reading.mirror is not None or reading.earlier is None else reading.earlier["staleAfter"]
    at_risk = reading.mirror is not None and reading.mirror.at_risk
    return reading.as_of_ms + (HORIZON_AT_RISK_MS if at_risk else HORIZON_EMPTY_MS)


def is_fresh(status: object, stale_after: object, now_ms: int) -> bool:
    """The one freshness rule of DESIGN §6, on values as they stand in a document."""
    return status == RecordStatus.LIVE and isinstance(stale_after, int) and now_ms < stale_after


def make_record(reading: Reading, *, fence: int, version: int, now_ms: int) -> Record:
    """Make the document for one reading under (fence, version).

    Positions, orders and the totals are null as long as no snapshot was ever read.
    """
    stale_after = stale_after_ms(reading)
    mirror, earlier = reading.mirror, reading.earlier or _NO_EARLIER
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "broker": reading.broker,
        "environment": reading.environment,
        "accountId": reading.account_id,
        **_account(reading),
        "fence": fence,
        "version": version,
        "asOf": earlier["asOf"] if mirror is None and reading.as_of_ms is None else reading.as_of_ms,
        "confirmedAt": earlier["confirmedAt"] if mirror is None else mirror.confirmed_at_ms,
        "staleAfter": stale_after,
        "lastUpdate": earlier["lastUpdate"] if mirror is None else mirror.content_at_ms,
        "_cache": True,
        "_cacheTimestamp": now_ms,
    }
    return Record(orjson.dumps(document), stale_after, reading.status is RecordStatus.LIVE)


def _account(reading: Reading) -> dict[str, Any]:
    """The fields from `login` to `orders`; everything null that was never read."""
    mirror = reading.mirror
    status = reading.status.value
    reason = reading.reason and {"code": reading.reason.code.value, "message": reading.reason.message}
    if mirror is None:
        earlier = reading.earlier or _NO_EARLIER
        said = {"status": status, "reason": reason}
        return {name: said[name] if name in said else earlier[name] for name in _ACCOUNT}
    shown = None if mirror.confirmed_at_ms is None else shown_of(mirror)
    fields: dict[str, Any] = {
        "login": mirror.login,
        "brokerTitle": mirror.broker_title,
        "canTrade": mirror.can_trade,
        "status": status,
        "reason": reason,
        "currency": mirror.currency,
        "moneyDigits": None if mirror.currency is None else mirror.money_digits,
        "leverage": json_number(mirror.leverage) if shown is None else shown.leverage,
        "balance": json_number(mirror.balance) if shown is None else shown.balance,
    }
    if shown is None:
        fields.update(_NOTHING_READ)
    else:
        shown.put_figures(mirror, fields)
        fields["orders"] = shown.orders
    return fields


_NOTHING_READ: dict[str, Any] = dict.fromkeys(
    ("equity", "unrealizedPnl", "usedMargin", "freeMargin", "marginLevel", "positions", "orders")
)
_ACCOUNT = (
    *("login", "brokerTitle", "canTrade", "status", "reason", "currency", "moneyDigits", "leverage", "balance"),
    *_NOTHING_READ,
)
_TIMES = ("asOf", "confirmedAt", "staleAfter", "lastUpdate")
_NO_EARLIER: Mapping[str, Any] = dict.fromkeys((*_ACCOUNT, *_TIMES))


def earlier_figures(
    document: bytes, *, broker: str, environment: str, account_id: str | None
) -> Mapping[str, Any] | None:
    """The figures and their times in a stored record of this very account, None when it is none.

    A process that takes a session over has read nothing yet; what was last known stays visible, and stays stale.
    """
    try:
        found = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or account_id is None or found.get("schema") != SCHEMA:
        return None
    if [found.get(name) for name in ("broker", "environment", "accountId")] != [broker, environment, account_id]:
        return None
    if not all(isinstance(found.get(name), list | None) for name in ("positions", "orders")):
        return None
    if not all(isinstance(found.get(name), int | None) for name in _TIMES):
        return None
    return {name: found.get(name) for name in _NO_EARLIER}
