"""The table of consents on their way (`bridge_consents`, migration 0005): each step is one conditional change.

Two processes that try the same step at once cannot both do it: the change itself checks where the row stands, who
brings it and, by the database's clock, whether it is in time. Only hashes and a sealed code are handed in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bridge.db.database import Database, Row
from bridge.db.users import ensure_user

FLOW_S = 600  # from the wish to the callback
COMPLETE_S = 60  # from the callback to completion; the broker's code lives as long
OPEN_PER_USER = 10  # consents of one user at one broker that are remembered, the latest ones
KEPT_S = 3600  # how long a row is remembered after its time, to tell latecomers why

_CLEAN = """
delete from public.bridge_consents where state_hash in (
  select state_hash from public.bridge_consents
  where expires_at < clock_timestamp() - make_interval(secs => $1) limit 500 for update skip locked)
"""
_CROWD = """
delete from public.bridge_consents where state_hash in (
  select state_hash from public.bridge_consents where user_key = $1 and broker = $2
  order by created_at desc offset $3)
"""
_START = """
insert into public.bridge_consents (state_hash, user_key, broker, scope, return_to, expires_at)
values ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))
"""
_BEGIN = """
update public.bridge_consents set step = 'begun', cookie_hash = $3
where state_hash = $1 and broker = $2 and step in ('started', 'begun') and expires_at > clock_timestamp()
returning scope
"""
_PARK = """
update public.bridge_consents
set step = 'parked', ticket_hash = $4, sealed_code = $5,
    expires_at = clock_timestamp() + make_interval(secs => $6)
where state_hash = $1 and broker = $2 and step = 'begun' and cookie_hash = $3 and expires_at > clock_timestamp()
returning true
"""
_DENY = """
update public.bridge_consents set step = 'denied'
where state_hash = $1 and broker = $2 and step = 'begun' and cookie_hash = $3
returning true
"""
_COLUMNS = """
select state_hash, user_key, broker, scope, return_to, step, cookie_hash, sealed_code,
       expires_at > clock_timestamp() as in_time
from public.bridge_consents
"""
_BY_STATE = f"{_COLUMNS} where state_hash = $1 and broker = $2"
_BY_TICKET = f"{_COLUMNS} where ticket_hash = $1 and broker = $2"
_END = """
update public.bridge_consents set step = $2, sealed_code = null where state_hash = $1 and step = 'parked'
returning true
"""


@dataclass(frozen=True, slots=True)
class Consent:
    """One row as it stands. `step`: started, begun, parked, spent, denied or stolen."""

    state_hash: bytes
    user_key: str
    broker: str
    scope: str
    return_to: str
    step: str
    in_time: bool
    cookie_hash: bytes | None = field(repr=False)
    sealed_code: bytes | None = field(repr=False)


class ConsentTable:
    """All methods raise Unavailable when the database cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(
        self, *, state_hash: bytes, user_key: str, user_id: str, broker: str, scope: str, return_to: str
    ) -> None:
        """Write down a wish; forget old ones."""
        async with self._database.transaction() as connection:
            await connection.execute(_CLEAN, KEPT_S)
            await ensure_user(connection, user_key, user_id)
            await connection.execute(_CROWD, user_key, broker, OPEN_PER_USER - 1)
            await connection.execute(_START, state_hash, user_key, broker, scope, return_to, FLOW_S)

    async def begin(self, state_hash: bytes, broker: str, cookie_hash: bytes) -> str | None:
        """A browser goes to the broker, and only one with this cookie may come back. The scope; None: not possible."""
        scope: str | None = await self._database.fetch_value(_BEGIN, state_hash, broker, cookie_hash)
        return scope

    async def find(self, state_hash: bytes, broker: str) -> Consent | None:
        """The consent as it stands."""
        row = await self._database.fetch_row(_BY_STATE, state_hash, broker)
        return None if row is None else _consent(row)

    async def park(self, consent: Consent, cookie_hash: bytes, ticket_hash: bytes, sealed_code: bytes) -> bool:
        """Keep the code for whoever holds the ticket. False when the row no longer stands where it did."""
        keys = (consent.state_hash, consent.broker, cookie_hash)
        return await self._database.fetch_value(_PARK, *keys, ticket_hash, sealed_code, COMPLETE_S) is True

    async def deny(self, consent: Consent, cookie_hash: bytes) -> bool:
        """The browser came back without a code."""
        return await self._database.fetch_value(_DENY, consent.state_hash, consent.broker, cookie_hash) is True

    async def claim(self, ticket_hash: bytes, broker: str, user_key: str) -> Consent | None:
        """Take the parked code out for good: at most one caller ever gets it, with step `parked`, its own user and in
        time. For any other caller the consent as it stood; brought by another user, it is destroyed. None: unknown."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_BY_TICKET, ticket_hash, broker)
            if row is None:
                return None
            consent = _consent(row)
            step = "spent" if consent.user_key == user_key else "stolen"
            taken = await connection.fetchval(_END, consent.state_hash, step)
        return consent if taken else replace(consent, step="spent", sealed_code=None)  # somebody was faster


def _consent(row: Row) -> Consent:
    return Consent(**dict(row.items()))
