"""The whole contract of stores once more, on Postgres behind a transaction pooler (faults.md C12)."""

import asyncio
from collections.abc import Iterator

import pytest

from bridge.cache.stores.postgres import PostgresStore
from bridge.db.database import Database
from bridge.embedded.postgres import PostgresServer
from core.secret import Secret
from tests.contract.test_store_contract import *  # noqa: F403 (its tests and fixtures, with another make_store)
from tests.contract.test_store_contract import MakeStore, emptied
from tests.support.databases import make_database
from tests.support.pooler import Pooler, pooler_thread


@pytest.fixture(scope="module")
def between(postgres: PostgresServer, _migrated: str) -> Iterator[tuple[Pooler, str]]:
    """A pooler in front of a migrated database, and that database's own address."""
    url = asyncio.run(make_database(postgres, template=_migrated))
    with pooler_thread(url, size=6) as made:
        yield made, url
        assert made.leaks == []
        assert made.lent  # however few of these tests this worker ran


@pytest.fixture(params=[pytest.param(None, id="pooler"), pytest.param("kv_store_bridge", id="pooler-kv")])
def make_store(request: pytest.FixtureRequest, between: tuple[Pooler, str]) -> MakeStore:
    made, url = between
    emptied(url)
    return lambda: PostgresStore(Database(Secret(made.url()), size=2), kv_table=request.param)
