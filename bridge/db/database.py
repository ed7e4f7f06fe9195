"""Postgres through asyncpg, in the one way that works direct, behind a session pooler and behind a transaction pooler.

Every statement runs inside an explicit transaction with its own time limit, without named prepared statements and
without any state of the session (no SET, no LISTEN, no session locks, no temporary tables). Waits are bounded: for a
connection, for a statement, for an end. Invariants: whatever asyncpg, the network or the server raises leaves here as
an error of `bridge.db.errors`; a connection of which it is not certain what it says next is never used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar, cast

import asyncpg

from bridge.db.address import server_address
from bridge.db.connection import (
    BEGIN_S,
    END_S,
    Connection,
    LimitedConnection,
    Row,
    drop,
    is_broken,
    limited,
    rolled_back,
    take_back,
)
from bridge.db.errors import (
    FOREIGN,
    DatabaseConflict,
    DatabaseContended,
    DatabaseDenied,
    DatabaseMisused,
    DatabaseReadOnly,
    DatabaseRefusedValue,
    DatabaseUnavailable,
    cause_of,
    translated,
)
from bridge.runtime.tasks import Tasks
from core.errors import BridgeError
from core.secret import Secret

__all__ = [
    "Connection",
    "Database",
    "DatabaseConflict",
    "DatabaseContended",
    "DatabaseDenied",
    "DatabaseMisused",
    "DatabaseReadOnly",
    "DatabaseRefusedValue",
    "DatabaseUnavailable",
    "Row",
]

START_S = 5.0  # to have a connection with an open transaction, free or newly dialled
BEGIN_TRIES = 3  # with new connections
STATEMENT_S = 5.0
MARGIN_S = 1.0  # the server ends a statement at its limit; we do when the server is gone
PAUSE_S = 30.0  # between two statements of a transaction: a frozen process does not hold locks for longer
IDLE_S = 300.0  # an unused connection is closed

T = TypeVar("T")
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


class Database:
    """One pool. `size`: connections at most; parts that must not wait for one another get a `Database` each."""

    def __init__(self, url: Secret, *, size: int = 4, name: str = "pulse-bridge") -> None:
        self._url = url
        self._size = size
        self._name = name
        self._pool: Pool | None = None
        self._life = 0  # raised when what is wrong with one connection is wrong with all: they are dialled anew
        self._tasks = Tasks("database")
        self._transactions = 0
        self._unavailable = 0

    async def open(self) -> None:
        """Make the pool; dials nothing yet. Raises ConfigurationError for an address that can never work."""
        if self._pool is not None:
            return
        self._pool = await asyncpg.create_pool(
            server_address(self._url),
            min_size=0,
            max_size=self._size,
            max_inactive_connection_lifetime=IDLE_S,
            statement_cache_size=0,
            command_timeout=END_S,  # of what asyncpg does by itself, such as taking a statement back
            connection_class=LimitedConnection,
            init=self._dialled,
            reset=_nothing_to_reset,
            server_settings={"application_name": self._name},
        )

    async def close(self) -> None:
        """Close every connection; never raises."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(END_S):
                await pool.close()
        except FOREIGN:
            pool.terminate()
        await self._tasks.close(END_S)

    def figures(self) -> Mapping[str, float]:
        """For telemetry: connections now and at most; transactions begun, and those that could not be, since start."""
        pool = self._pool
        return {
            "connections": 0 if pool is None else pool.get_size(),
            "busy": 0 if pool is None else pool.get_size() - pool.get_idle_size(),
            "connections_most": self._size,
            "transactions": self._transactions,
            "unavailable": self._unavailable,
        }

    @asynccontextmanager
    async def transaction(
        self, *, timeout_s: float = STATEMENT_S, pause_s: float = PAUSE_S
    ) -> AsyncIterator[Connection]:
        """A transaction: committed when the block ends well, rolled back otherwise. `timeout_s` for each statement.

        `pause_s`: when the block lets the server wait longer for its next statement, the server ends the transaction.
        Raises DatabaseUnavailable, DatabaseConflict, DatabaseMisused. After a failed commit the outcome is unknown:
        statements are written so that the caller may repeat them.
        """
        try:
            connection, pool = await self._begin(timeout_s, pause_s)
        except BridgeError:
            self._unavailable += 1
            raise
        self._transactions += 1
        certain = False  # what the connection says next
        try:
            yield connection
            committed = await connection.execute("commit")
            certain = not is_broken(connection)
            if committed != "COMMIT":
                raise DatabaseMisused("nothing was committed: a statement had failed and its error was passed over")
        except Exception as error:  # whatever the block raised goes on; here it only decides about the connection
            certain = certain or await rolled_back(connection)
            if isinstance(error, DatabaseReadOnly):
                self._life += 1
            if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError):  # of a part of asyncpg seldom used
                raise translated(error) from cause_of(error)
            raise
        finally:  # cancelled in the middle of anything, it is not certain
            if certain:
                await _release(connection, pool)
            else:
                self._tasks.start(take_back(connection), name="take-back")

    async def repeated(
        self, work: Callable[[Connection], Awaitable[T]], *, tries: int = 3, timeout_s: float = STATEMENT_S
    ) -> T:
        """Run `work` in a transaction, and from the start again when others were in its way (DatabaseContended).

        Raises what `transaction` raises; DatabaseContended after `tries`.
        """
        for left in range(tries - 1, -1, -1):
            try:
                async with self.transaction(timeout_s=timeout_s) as connection:
                    return await work(connection)
            except DatabaseContended:
                if not left:
                    raise
        raise ValueError("tries must be 1 or more")

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

    async def _begin(self, timeout_s: float, pause_s: float) -> tuple[Connection, Pool]:
        """A connection with an open transaction. A connection found dead is replaced: nothing was asked of it yet."""
        pool = self._pool
        if pool is None:
            raise DatabaseUnavailable("the database is not open")
        begin = (
            f"begin; set local statement_timeout = {round(timeout_s * 1000)};"
            f" set local idle_in_transaction_session_timeout = {round(pause_s * 1000)}"
        )
        failure: BridgeError = DatabaseUnavailable("the database cannot be used now: no answer in time")
        try:
            async with asyncio.timeout(START_S):
                for _ in range(self._size + BEGIN_TRIES):
                    connection = await pool.acquire()
                    if limited(connection).life != self._life:
                        drop(connection)
                        continue
                    try:
                        await self._send(begin, connection)
                    except BridgeError as error:
                        failure = error
                        continue
                    limited(connection).use(timeout_s + MARGIN_S)
                    return connection, pool
        except TimeoutError:
            raise failure from None
        except FOREIGN as error:
            raise translated(error) from cause_of(error)
        raise failure

    async def _send(self, begin: str, connection: Connection) -> None:
        """Open the transaction, or drop the connection; with it all the others, since what cut one has cut them too."""
        begun = False
        try:
            await connection.execute(begin, timeout=BEGIN_S)
            begun = True
        finally:
            if not begun:
                self._life += 1
                drop(connection)

    async def _dialled(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        cast(LimitedConnection, connection).life = self._life


async def _release(connection: Connection, pool: Pool) -> None:
    try:
        await pool.release(connection)
    except FOREIGN:
        drop(connection)  # the pool was closed meanwhile


async def _nothing_to_reset(connection: object) -> None:
    """No state of the session is ever made, so there is none to undo."""
