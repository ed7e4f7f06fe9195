"""The table of grants (`bridge_grants`): SQL, and nothing that decides.

Rows hold sealed bytes only; this module neither opens nor seals. Leases and expiry go by the database's clock. Every
statement may be repeated, since the outcome of a failed commit is unknown. Invariant: `version` changes exactly when
the token pair does, so whoever saw version n writes the pair that follows it only while n is still stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from bridge.brokers.base import BrokerAccount, ConsentScope, Environment
from bridge.db.database import Connection, Database, Row
from bridge.db.users import ensure_user

MOST_ATTEMPTS = 2  # requests with one refresh token: the first, and one more when it may have been spent

_COLUMNS = """id::text as id, user_key, broker, environment, account_id, scope, accounts::text as accounts,
  (extract(epoch from accounts_at) * 1000)::bigint as accounts_at_ms, sealed, version,
  (extract(epoch from expires_at) * 1000)::bigint as expires_at_ms,
  coalesce(refresh_until > clock_timestamp(), false) as leased, refresh_attempts, refusal, source, source_print,
  (extract(epoch from created_at) * 1000)::bigint as created_at_ms,
  (extract(epoch from updated_at) * 1000)::bigint as updated_at_ms"""
_FIND = f"select {_COLUMNS} from public.bridge_grants where user_key = $1 and broker = $2"  # noqa: S608  constants only
_OF_USER = f"select {_COLUMNS} from public.bridge_grants where user_key = $1 order by broker"  # noqa: S608  constants only
_BY_ID = f"select {_COLUMNS} from public.bridge_grants where id = $1::uuid"  # noqa: S608  constants only
_MAKE = """insert into public.bridge_grants (user_key, broker, environment, source) values ($1, $2, $3, $4)
on conflict (user_key, broker) do nothing"""
_NEW_PAIR = """update public.bridge_grants set sealed = $2, key_id = $3, version = version + 1,
  expires_at = clock_timestamp() + make_interval(secs => $4), refresh_owner = null, refresh_until = null,
  refresh_attempts = 0, refusal = null, updated_at = clock_timestamp()
where id = $1::uuid"""
_DESCRIBE = """update public.bridge_grants set environment = $2, account_id = $3, scope = $4, source = $5,
  source_print = $6, updated_at = clock_timestamp()
where id = $1::uuid"""
_CHOOSE = """update public.bridge_grants set environment = $2, account_id = $3, updated_at = clock_timestamp()
where id = $1::uuid"""
_COVER = "update public.bridge_grants set accounts = $2::jsonb, accounts_at = clock_timestamp() where id = $1::uuid"
_UNCOVER = "update public.bridge_grants set accounts = '[]', accounts_at = null where id = $1::uuid"
_PRINT = "update public.bridge_grants set source_print = $2 where id = $1::uuid"
_REMOVE = """update public.bridge_grants set sealed = null, key_id = null, version = version + 1, expires_at = null,
  account_id = null, scope = null, accounts = '[]', accounts_at = null, refresh_owner = null, refresh_until = null,
  refresh_attempts = 0, refusal = null, source_print = $2, updated_at = clock_timestamp()
where id = $1::uuid and sealed is not null"""
_LEASE = f"""update public.bridge_grants set refresh_owner = $3,
  refresh_until = clock_timestamp() + make_interval(secs => $4),
  refresh_attempts = refresh_attempts + case when refresh_owner is not distinct from $3 then 0 else 1 end
where id = $1::uuid and version = $2 and sealed is not null and refusal is null
  and (refresh_owner is not distinct from $3
    or (refresh_attempts < {MOST_ATTEMPTS} and coalesce(refresh_until <= clock_timestamp(), true)))
returning refresh_attempts"""  # noqa: S608  constants only
_RELEASE = """update public.bridge_grants set refresh_owner = null, refresh_until = null,
  refresh_attempts = refresh_attempts - $4
where id = $1::uuid and version = $2 and refresh_owner = $3"""
_REFUSE = """update public.bridge_grants set refresh_owner = null, refresh_until = null, refusal = $3
where id = $1::uuid and version = $2 and sealed is not null"""


class Source(StrEnum):
    """How a grant came to be stored."""

    ENTERED = "entered"
    CONSENT = "consent"
    SETTINGS = "settings"  # an existing settings row


@dataclass(frozen=True, slots=True)
class Grant:
    """One row as read. `sealed` None: removed by the user. `leased`: somebody may be renewing it now."""

    id: str
    user_key: str
    broker: str
    environment: Environment
    account_id: str | None
    scope: ConsentScope | None
    accounts: tuple[BrokerAccount, ...]
    accounts_at_ms: int | None
    sealed: bytes | None = field(repr=False)
    version: int
    expires_at_ms: int | None
    leased: bool
    refresh_attempts: int
    refusal: str | None
    source: Source
    source_print: str | None
    created_at_ms: int
    updated_at_ms: int


class GrantTable:
    """The statements. All raise the errors of `bridge.db.database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, user_key: str, broker: str) -> Grant | None:
        """The user's grant there, removed ones too."""
        row = await self._database.fetch_row(_FIND, user_key, broker)
        return None if row is None else _grant(row)

    async def by_id(self, grant_id: str) -> Grant | None:
        """One grant, wherever its user's key has moved to."""
        row = await self._database.fetch_row(_BY_ID, grant_id)
        return None if row is None else _grant(row)

    @asynccontextmanager
    async def held(self, user_key: str, user_id: str, broker: str, source: Source) -> AsyncIterator[HeldGrant]:
        """The user's row, made when there is none (as removed), nobody else writes it until the block ends."""
        async with self._database.transaction() as connection:
            await ensure_user(connection, user_key, user_id)
            await connection.execute(_MAKE, user_key, broker, Environment.DEMO.value, source.value)
            row = await connection.fetchrow(f"{_FIND} for update", user_key, broker)
            assert row is not None  # noqa: S101  made or found above, and locked
            yield HeldGrant(connection, _grant(row))

    @asynccontextmanager
    async def held_if_any(self, user_key: str, broker: str) -> AsyncIterator[HeldGrant | None]:
        """As `held`, without making a row."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(f"{_FIND} for update", user_key, broker)
            yield None if row is None else HeldGrant(connection, _grant(row))

    @asynccontextmanager
    async def held_by_id(self, grant_id: str) -> AsyncIterator[HeldGrant | None]:
        """As `held_if_any`, by the grant's id."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(f"{_BY_ID} for update", grant_id)
            yield None if row is None else HeldGrant(connection, _grant(row))

    # ------------------------------------------------------------ the right to renew

    async def lease(self, grant_id: str, version: int, owner: str, seconds: float) -> int | None:
        """Take the right to send this pair's refresh token; the number of this attempt, None when it is not to be had.

        The same owner may ask again and is counted once.
        """
        attempt: int | None = await self._database.fetch_value(_LEASE, grant_id, version, owner, seconds)
        return attempt

    async def release(self, grant_id: str, version: int, owner: str, *, unsent: bool) -> None:
        """Give the right back. `unsent`: the token was certainly not spent, so the attempt does not count."""
        await self._database.execute(_RELEASE, grant_id, version, owner, int(unsent))

    async def refuse(self, grant_id: str, version: int, code: str) -> None:
        """Take down that the broker refuses this pair for good; nothing happens when there is a newer one."""
        await self._database.execute(_REFUSE, grant_id, version, code)


class HeldGrant:
    """A locked row, within a transaction. `row` is as it was when locked."""

    def __init__(self, connection: Connection, row: Grant) -> None:
        self._connection = connection
        self.row = row

    @property
    def is_new(self) -> bool:
        """True for a row that was made just now: no pair was ever stored in it."""
        return self.row.version == 1

    async def new_pair(self, sealed: bytes, key_id: str, expires_in_s: float | None) -> None:
        """Store the next token pair; nothing of the one before counts any more."""
        await self._connection.execute(_NEW_PAIR, self.row.id, sealed, key_id, expires_in_s)

    async def describe(
        self,
        environment: Environment,
        account_id: str | None,
        scope: ConsentScope | None,
        source: Source,
        source_print: str | None,
    ) -> None:
        """Store what is known of the grant besides its tokens."""
        scope_value = None if scope is None else scope.value
        await self._connection.execute(
            _DESCRIBE, self.row.id, environment.value, account_id, scope_value, source.value, source_print
        )

    async def choose(self, environment: Environment, account_id: str | None) -> None:
        """Store another choice of account."""
        await self._connection.execute(_CHOOSE, self.row.id, environment.value, account_id)

    async def cover(self, accounts: Sequence[BrokerAccount]) -> None:
        """Store what the broker listed just now."""
        await self._connection.execute(_COVER, self.row.id, _listed(accounts))

    async def uncover(self) -> None:
        """What the broker listed was for other tokens."""
        await self._connection.execute(_UNCOVER, self.row.id)

    async def remember(self, source_print: str) -> None:
        """Take down which settings row was seen."""
        await self._connection.execute(_PRINT, self.row.id, source_print)

    async def remove(self, source_print: str | None) -> None:
        """Forget the tokens and all that was known with them."""
        await self._connection.execute(_REMOVE, self.row.id, source_print)


async def grants_of(connection: Connection, user_key: str) -> list[Grant]:
    """All grants of a user, removed ones too."""
    return [_grant(row) for row in await connection.fetch(_OF_USER, user_key)]


def _listed(accounts: Sequence[BrokerAccount]) -> str:
    return orjson.dumps(
        [
            {
                "accountId": each.account_id,
                "environment": each.environment.value,
                "login": each.login,
                "brokerTitle": each.broker_title,
            }
            for each in accounts
        ]
    ).decode()


def _grant(row: Row) -> Grant:
    accounts = tuple(
        BrokerAccount(each["accountId"], Environment(each["environment"]), each["login"], each["brokerTitle"])
        for each in orjson.loads(row["accounts"])
    )
    return Grant(
        id=row["id"],
        user_key=row["user_key"],
        broker=row["broker"],
        environment=Environment(row["environment"]),
        account_id=row["account_id"],
        scope=None if row["scope"] is None else ConsentScope(row["scope"]),
        accounts=accounts,
        accounts_at_ms=row["accounts_at_ms"],
        sealed=row["sealed"],
        version=row["version"],
        expires_at_ms=row["expires_at_ms"],
        leased=row["leased"],
        refresh_attempts=row["refresh_attempts"],
        refusal=row["refusal"],
        source=Source(row["source"]),
        source_print=row["source_print"],
        created_at_ms=row["created_at_ms"],
        updated_at_ms=row["updated_at_ms"],
    )
