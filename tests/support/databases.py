"""Databases of a test's own on a running server, made from a template so that each costs some tens of milliseconds."""

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from bridge.db.database import Database
from bridge.db.migrate import migrate
from bridge.embedded.postgres import PostgresServer
from core.secret import Secret

_NUMBERS = itertools.count(1)


async def make_database(server: PostgresServer, name: str | None = None, *, template: str = "template0") -> str:
    """Create a database and return its URL."""
    name = name or f"test_{os.getpid()}_{next(_NUMBERS)}"
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(f'create database "{name}" template "{template}"')
    finally:
        await connection.close()
    return server.url(name)


async def drop_database(server: PostgresServer, url: str) -> None:
    """Drop what `make_database` made, whoever is still connected to it.

    Hundreds of databases kept are gigabytes to write and to remove, and the server looks after each that was used.
    """
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(f'drop database "{url.rpartition("/")[2]}" with (force)')
    finally:
        await connection.close()


async def migrate_database(url: str) -> None:
    """Apply every migration."""
    database = Database(Secret(url))
    await database.open()
    try:
        await migrate(database)
    finally:
        await database.close()


@asynccontextmanager
async def opened(url: str, size: int = 4) -> AsyncIterator[Database]:
    """An open `Database` until the block ends."""
    database = Database(Secret(url), size=size)
    await database.open()
    try:
        yield database
    finally:
        await database.close()
