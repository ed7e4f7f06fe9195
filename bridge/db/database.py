"""Postgres through asyncpg, in the one way that works direct, behind a session pooler and behind a transaction pooler.

Every statement runs inside an explicit transaction with its own time limit, without named prepared statements and
without any state of the session (no SET, no LISTEN, no session locks, no temporary tables). Waits are bounded: for a
free connection, for a statement, for a new connection. Invariant: whatever asyncpg, the network or the server raises
leaves here as one of the errors of this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from core.errors import BridgeError, ConfigurationError, Conflict, Unavailable
from core.secret import Secret

log = logging.getLogger(__name__)

CONNECT_S = 5.0
ACQUIRE_S = 2.0
STATEMENT_S = 5.0
IDLE_S = 300.0
BEGIN_TRIES = 3

Row: TypeAlias = asyncpg.Record
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


class DatabaseUnavailable(Unavailable):
    """The database did not answer, cut the connection or cannot write now. What was asked may have been committed."""


class DatabaseConflict(Conflict):
    """A constraint refused the statement; `constraint` names it."""

    def __init__(self, message: str, *, constraint: str | None) -> None:
        super().__init__(message)
        self.constraint = constraint


class DatabaseMisused(BridgeError):
    """The schema or the grants are not what this version needs (a missing table, column or permission)."""


class Database:
    """One pool. `size`: connections at most; parts that must not wait for one another get a `Database` each."""

    def __init__(self, url: Secret, *, size: int = 4, name: str = "pulse-bridge") -> None:
        self._url = url
        self._size = size
        self._name = name
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Make the pool; dials nothing yet. Raises ConfigurationError for an address that can never work."""
        if self._pool is not None:
            return
        try:
            self._pool = await asyncpg.create_pool(
                self._url.reveal(),
                min_size=0,
                max_size=self._size,
                max_inactive_connection_lifetime=IDLE_S,
                statement_cache_size=0,
                timeout=CONNECT_S,
                command_timeout=STATEMENT_S + 1.0,
                reset=_nothing_to_reset,
                server_settings={"application_name": self._name},
            )
        except (ValueError, asyncpg.InterfaceError) as error:
            raise ConfigurationError("DATABASE_URL: is not an address of a Postgres database") from error

    async def close(self) -> None:
        """Close every connection; never raises."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(1.0):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @asynccontextmanager
    async def transaction(self, *, timeout_s: float = STATEMENT_S) -> AsyncIterator[Connection]:
        """A transaction: committed when the block ends well, rolled back otherwise. `timeout_s` for each statement.

        Raises DatabaseUnavailable, DatabaseConflict, DatabaseMisused. After a failed commit the outcome is unknown:
        statements are written so that the caller may repeat them.
        """
        connection, pool = await self._begin(timeout_s)
        try:
            try:
                yield connection
                await connection.execute("commit")
            except BaseException:
                await _roll_back(connection)
                raise
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise translated(error) from error
        finally:
            await pool.release(connection)

    async def fetch(self, sql: str, *arguments: object, timeout_s: float = STATEMENT_S) -> list[Row]:
        """All rows of one statement in its own transaction."""
        async with self.transaction(timeout_s=timeout_s) as connection:
            rows: list[Row] = await connection.fetch(sql, *arguments)
            return rows

    async def fetch_row(self, sql: str, *arguments: object, timeout_s: float = STATEMENT_S) -> Row | None:
        """The first row, or None."""
        async with self.transaction(timeout_s=timeout_s) as connection:
            return await connection.fetchrow(sql, *arguments)

    async def fetch_value(self, sql: str, *arguments: object, timeout_s: float = STATEMENT_S) -> Any:
        """The first column of the first row, or None."""
        async with self.transaction(timeout_s=timeout_s) as connection:
            return await connection.fetchval(sql, *arguments)

    async def execute(self, sql: str, *arguments: object, timeout_s: float = STATEMENT_S) -> None:
        """One statement whose rows do not matter."""
        async with self.transaction(timeout_s=timeout_s) as connection:
            await connection.execute(sql, *arguments)

    async def _begin(self, timeout_s: float) -> tuple[Connection, asyncpg.Pool[asyncpg.Record]]:
        """A connection with an open transaction. A connection found dead is replaced: nothing was asked of it yet."""
        pool = self._pool
        if pool is None:
            raise DatabaseUnavailable("the database is not open")
        begin = f"begin; set local statement_timeout = {round(timeout_s * 1000)}"
        failure: Exception | None = None
        for _ in range(BEGIN_TRIES):
            try:
                connection = await pool.acquire(timeout=ACQUIRE_S)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                raise translated(error) from error
            try:
                await connection.execute(begin)
                return connection, pool
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                failure = error
                await _discard(connection, pool)
            except BaseException:
                await _discard(connection, pool)
                raise
        assert failure is not None  # noqa: S101  the loop ran
        raise translated(failure) from failure


def translated(error: Exception) -> BridgeError:
    """What a failure of asyncpg, the network or the server means for the caller."""
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return DatabaseConflict(type(error).__name__, constraint=getattr(error, "constraint_name", None))
    if isinstance(error, (asyncpg.InsufficientPrivilegeError, asyncpg.SyntaxOrAccessError)):
        return DatabaseMisused(f"the database refused a statement: {error.args[0] if error.args else error!r}")
    if isinstance(error, (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)):
        return DatabaseUnavailable(f"the database refuses the connection: {type(error).__name__}")
    return DatabaseUnavailable(f"the database cannot be used now: {type(error).__name__}")


async def _roll_back(connection: Connection) -> None:
    """End the transaction; a connection that cannot even do that is dropped."""
    try:
        async with asyncio.timeout(1.0):
            await connection.execute("rollback")
    except (asyncpg.PostgresError, OSError, TimeoutError):
        connection.terminate()
    except asyncpg.InterfaceError:
        return  # closed, and taken back by the pool


async def _discard(connection: Connection, pool: asyncpg.Pool[asyncpg.Record]) -> None:
    """Drop a connection of which nobody knows what it will say next."""
    try:
        connection.terminate()
    except asyncpg.InterfaceError:
        return  # the pool has noticed and taken it back already
    await pool.release(connection)


async def _nothing_to_reset(connection: object) -> None:
    """No state of the session is ever made, so there is none to undo."""
