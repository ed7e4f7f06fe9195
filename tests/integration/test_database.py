"""Postgres through `Database`: real server, real sockets."""

import pytest

from bridge.db.database import Database, DatabaseUnavailable
from bridge.embedded.postgres import PostgresServer
from core.secret import Secret


async def test_a_statement_is_answered_when_the_database_is_migrated(database: Database) -> None:
    assert await database.fetch_value("select count(*) from public.bridge_facts") >= 2


async def test_the_pool_comes_back_when_the_server_was_restarted(postgres_factory: object) -> None:
    server: PostgresServer = postgres_factory()  # type: ignore[operator]
    database = Database(Secret(server.url()))
    await database.open()
    assert await database.fetch_value("select 1") == 1
    server.restart()
    assert await database.fetch_value("select 2") == 2
    server.kill()
    with pytest.raises(DatabaseUnavailable):
        await database.fetch_value("select 3")
    await database.close()
