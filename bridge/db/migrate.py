"""Migrations: plain SQL files, applied once each and in order, by one process at a time (DESIGN §9).

Each file is one transaction, with the lock taken first and its row in `bridge_migrations` written last. A database
remembers which migrations it has and the oldest version of the code that can work with it, so that a release and the
one before it run side by side. Invariants: what a database has is a beginning of what the code has, or the other way
round; an applied file never changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from bridge.db.database import Connection, Database, DatabaseContended, DatabaseDenied, DatabaseMisused
from bridge.db.locks import lock_id
from core.errors import ConfigurationError

LOCK = lock_id("pulse-bridge migrations")
MIGRATE_S = 300.0  # for one file, waiting for another process included
# asked of the table, not of to_regclass: that may answer from before we waited for the lock
BOOK_EXISTS = (
    "exists (select from pg_catalog.pg_class where relname = 'bridge_migrations'"
    " and relnamespace = 'public'::pg_catalog.regnamespace)"
)
DDL_WAIT_S = 30.0  # for a table that somebody uses
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_OLDEST = re.compile(r"^-- oldest: (\d+)$", re.MULTILINE)
_WHO = "use the user who applied the earlier migrations, or the owner of the database"
_ROLES = ("anon", "authenticated", "service_role")


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

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


@dataclass(frozen=True, slots=True)
class Applied:
    """One row of `bridge_migrations`."""

    version: int
    name: str
    checksum: str
    oldest: int


def migrations() -> list[Migration]:
    """All migrations of this code, oldest first. The code's version is that of the last one."""
    found = []
    for path in files("bridge.db").joinpath("migrations").iterdir():
        if match := _NAME.fullmatch(path.name):
            sql = path.read_text(encoding="utf-8")
            oldest = _OLDEST.search(sql)
            if oldest is None:
                raise ConfigurationError(f"migration {path.name} does not say the oldest version that works with it")
            found.append(Migration(int(match[1]), match[2], sql, int(oldest[1])))
    return sorted(found, key=lambda each: each.version)


def pending(known: Sequence[Migration], applied: Sequence[Applied]) -> list[Migration]:
    """What the code has and the database has not. Decides whether the two can work together at all.

    Raises ConfigurationError: the database does not admit this version any more, an applied file was changed, or one is
    missing between others.
    """
    present = {each.version: each for each in applied}
    latest = max((each.version for each in known), default=0)
    oldest = max((each.oldest for each in applied), default=0)
    if oldest > latest:
        raise ConfigurationError(
            f"this version is too old for this database: it has schema {max(present)}, which works with versions of"
            f" schema {oldest} or later, and this one is of schema {latest}; deploy a later release"
        )
    for each in known:
        there = present.get(each.version)
        if there is not None and there.checksum != each.checksum:
            raise ConfigurationError(
                f"migration {each} is not the one that this database has ({there.version:04}_{there.name}): an applied"
                " migration must never be changed; restore the file, or use a new database"
            )
    missing = [each for each in known if each.version not in present]
    if missing and present and missing[0].version < max(present):
        raise ConfigurationError(f"this database has later migrations but lacks {missing[0]}: it was not made in order")
    return missing


async def applied_migrations(connection: Connection) -> list[Applied]:
    """What the database has, oldest first; nothing when it has never been migrated."""
    if not await connection.fetchval(f"select {BOOK_EXISTS}"):
        return []
    try:
        rows = await connection.fetch(
            "select version, name, checksum, oldest from public.bridge_migrations order by version"
        )
    except DatabaseDenied as error:
        raise ConfigurationError(f"DATABASE_URL: {error}; {_WHO}") from error
    return [Applied(row["version"], row["name"], row["checksum"], row["oldest"]) for row in rows]


async def check(database: Database, known: Sequence[Migration] | None = None) -> list[Migration]:
    """Which migrations the database lacks; changes nothing. Raises ConfigurationError like `pending`."""
    async with database.transaction() as connection:
        applied = await applied_migrations(connection)
    return pending(migrations() if known is None else known, applied)


async def migrate(database: Database, known: Sequence[Migration] | None = None) -> list[Migration]:
    """Bring an open database up to date; returns what was applied. Safe to call from several processes at once.

    `known`: instead of the code's own. Raises ConfigurationError like `pending`, when a grant is missing, or when a
    file was refused; the files before it stay applied.
    """
    wanted = migrations() if known is None else known
    done = []
    while (latest := await _apply_next(database, wanted)) is not None:
        done.append(latest)
    return done


async def _apply_next(database: Database, known: Sequence[Migration]) -> Migration | None:
    """Apply the first of the missing migrations; None when there is none."""
    if not await check(database, known):
        return None  # the usual start of a process, without any lock
    async with database.transaction(timeout_s=MIGRATE_S) as connection:
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
        missing = pending(known, await applied_migrations(connection))
        if not missing:
            return None  # another process was faster
        await _demand_privileges(connection)
        await connection.execute(f"set local lock_timeout = {round(DDL_WAIT_S * 1000)}")
        await _apply(connection, missing[0])
        return missing[0]


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        await connection.execute(migration.sql)
    except DatabaseDenied as error:
        raise ConfigurationError(
            f"migration {migration} needs more rights than the user of DATABASE_URL has: {error}; {_WHO}"
        ) from error
    except DatabaseMisused as error:
        raise ConfigurationError(f"migration {migration} cannot be applied here: {error}") from error
    except DatabaseContended as error:
        raise ConfigurationError(
            f"migration {migration} had to wait for more than {DDL_WAIT_S:g} s for a table that is in use; try again"
        ) from error
    await connection.execute(
        "insert into public.bridge_migrations (version, name, checksum, oldest) values ($1, $2, $3, $4)",
        migration.version,
        migration.name,
        migration.checksum,
        migration.oldest,
    )


async def _demand_privileges(connection: Connection) -> None:
    """Say what to grant before anything is refused halfway."""
    row = await connection.fetchrow(
        """
        select quote_ident(current_user) as me,
          has_schema_privilege('public', 'create') and has_schema_privilege('public', 'usage') as may_create,
          array(select wanted from unnest($1::text[]) wanted
                where not exists (select from pg_catalog.pg_roles where rolname = wanted)) as lacking,
          (select r.rolsuper or (r.rolcreaterole and r.rolbypassrls) from pg_catalog.pg_roles r
           where r.rolname = current_user) as may_make_roles
        """,
        list(_ROLES),
    )
    assert row is not None  # noqa: S101  a select without FROM has one row
    if not row["may_create"]:
        raise ConfigurationError(
            "DATABASE_URL: its user may not make tables in this database; as its administrator run:"
            f" grant usage, create on schema public to {row['me']};"
        )
    if row["lacking"] and not row["may_make_roles"]:
        orders = [f"create role {name} nologin{' bypassrls' * (name == 'service_role')};" for name in row["lacking"]]
        raise ConfigurationError(
            "DATABASE_URL: its user may not make the roles that rights are granted to; as an administrator run: "
            + " ".join(orders)
        )
