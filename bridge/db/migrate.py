"""Migrations: plain SQL files, applied once each and in order, by one process at a time (DESIGN §9).

Each file is one transaction. A database remembers which version it has and the oldest version of the code that can work
with it, so that a release and the one before it run side by side.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from bridge.db.database import Connection, Database
from core.errors import ConfigurationError

LOCK = 7_011_970_711_970_001  # of pg_advisory_xact_lock
MIGRATE_S = 300.0
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_OLDEST = re.compile(r"^-- oldest: (\d+)$", re.MULTILINE)
_BOOK = """
create table if not exists public.bridge_migrations (
  version integer primary key,
  name text not null,
  checksum text not null,
  oldest integer not null,
  applied_at timestamptz not null default now()
);
alter table public.bridge_migrations enable row level security;
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `oldest`: the oldest version of the code that works with a database that has this one."""

    version: int
    name: str
    sql: str
    oldest: int

    @property
    def checksum(self) -> str:
        """Hex SHA-256 of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations of this code, oldest first."""
    found = []
    for path in files("bridge.db").joinpath("migrations").iterdir():
        if match := _NAME.fullmatch(path.name):
            sql = path.read_text(encoding="utf-8")
            oldest = _OLDEST.search(sql)
            if oldest is None:
                raise ConfigurationError(f"migration {path.name} does not say the oldest version that works with it")
            found.append(Migration(int(match[1]), match[2], sql, int(oldest[1])))
    return sorted(found, key=lambda each: each.version)


async def migrate(database: Database) -> list[Migration]:
    """Bring an open database up to date; returns what was applied. Safe to call from several processes at once."""
    applied = []
    async with database.transaction(timeout_s=MIGRATE_S) as connection:
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(_BOOK)
        present = {row["version"] for row in await connection.fetch("select version from public.bridge_migrations")}
        for each in migrations():
            if each.version not in present:
                await _apply(connection, each)
                applied.append(each)
    return applied


async def _apply(connection: Connection, migration: Migration) -> None:
    await connection.execute(migration.sql)
    await connection.execute(
        "insert into public.bridge_migrations (version, name, checksum, oldest) values ($1, $2, $3, $4)",
        migration.version,
        migration.name,
        migration.checksum,
        migration.oldest,
    )
