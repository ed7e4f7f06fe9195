"""One connection to Postgres, as the pool of `bridge.db.database` holds it.

Its statements end in time although the server is gone, without each caller saying so, and it knows which life of the
pool it belongs to. Must never be used outside a transaction of `Database`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import asyncpg

from bridge.db.errors import FOREIGN, cause_of, translated
from core.errors import BridgeError

BEGIN_S = 2.0  # for the first answer
END_S = 1.0  # to roll back, to take a statement back, to close

Row: TypeAlias = asyncpg.Record
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


if TYPE_CHECKING:
    _Base = asyncpg.Connection[asyncpg.Record]
else:
    _Base = asyncpg.Connection  # cannot be subscripted at run time


class LimitedConnection(_Base):
    """`limit_s`: of each statement that names no limit itself. `life`: of the pool when this was dialled.

    `broken`: a statement was cut off, so that it is not certain what comes next. Every error is one of
    `bridge.db.errors`.
    """

    life = 0
    limit_s = BEGIN_S  # asyncpg asks a new connection whether it may write, when the address says so
    broken = False

    def use(self, limit_s: float) -> None:
        """Set the limit; through the pool's proxy attributes can only be read."""
        self.limit_s = limit_s

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 (as asyncpg)
        with self._boundary():
            return await super().execute(query, *args, timeout=timeout or self.limit_s)

    async def executemany(self, command: str, args: Iterable[Any], *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        with self._boundary():
            await super().executemany(command, args, timeout=timeout or self.limit_s)

    async def fetch(self, query: str, *args: Any, timeout: float | None = None, record_class: Any = None) -> Any:  # noqa: ASYNC109
        with self._boundary():
            return await super().fetch(query, *args, timeout=timeout or self.limit_s, record_class=record_class)

    async def fetchval(self, query: str, *args: Any, column: int = 0, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        with self._boundary():
            return await super().fetchval(query, *args, column=column, timeout=timeout or self.limit_s)

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None, record_class: Any = None) -> Any:  # noqa: ASYNC109
        with self._boundary():
            return await super().fetchrow(query, *args, timeout=timeout or self.limit_s, record_class=record_class)

    @contextmanager
    def _boundary(self) -> Iterator[None]:
        whole = False
        try:
            yield
            whole = True
        except FOREIGN as error:
            whole = isinstance(error, asyncpg.PostgresError)
            raise translated(error) from cause_of(error)
        finally:
            self.broken = self.broken or not whole


def limited(connection: Connection) -> LimitedConnection:
    """What stands behind the pool's proxy."""
    return cast(LimitedConnection, connection)


def is_broken(connection: Connection) -> bool:
    """Whether a statement was cut off on it, or it is closed: the pool's proxy has no attributes then."""
    return bool(getattr(connection, "broken", True))


async def rolled_back(connection: Connection) -> bool:
    """End the transaction; False when it is not certain that it has ended."""
    if is_broken(connection):
        return False
    try:
        await connection.execute("rollback", timeout=END_S)
    except BridgeError:
        return False
    return True


def drop(connection: Connection) -> None:
    """Cut a connection on which nothing runs; the pool gets its place back."""
    try:
        connection.terminate()
    except asyncpg.InterfaceError:
        return  # the pool has noticed and taken it back already


async def take_back(connection: Connection) -> None:
    """End a connection on which something may still run: the server is told to stop, so that it holds no locks."""
    try:
        await connection.close(timeout=END_S)
    except FOREIGN:
        drop(connection)
