"""`python -m bridge migrate`: bring the database up to date, or say what it lacks, or write the migrations as files."""

from __future__ import annotations

from bridge.config import Settings
from bridge.db.database import Database
from bridge.db.export import export
from bridge.db.migrate import check
from bridge.db.startup import prepare_database
from bridge.runtime.clock import SystemClock
from core.errors import ConfigurationError


def run_export(folder: str) -> int:
    """Write Supabase migration files into `folder`; needs no database. Raises ConfigurationError."""
    for path in export(folder):
        print(path)
    print("apply them with `supabase db push` (with --include-all when the project has later migrations)")
    return 0


async def run_migrate(settings: Settings, *, only_check: bool = False) -> int:
    """Apply what the database lacks. With `only_check` change nothing and answer 1 when it lacks something.

    Raises ConfigurationError: no DATABASE_URL, not reachable, clocks apart, rights missing, or another schema.
    """
    if settings.database_url is None:
        raise ConfigurationError("DATABASE_URL: is not set, so there is nothing to migrate")
    database = Database(settings.database_url, size=1, name="pulse-bridge migrate")
    await database.open()
    try:
        if only_check:
            lacking = await check(database)
            print(f"the database lacks {', '.join(map(str, lacking))}" if lacking else "the database is up to date")
            return 1 if lacking else 0
        applied = await prepare_database(database, SystemClock())
    finally:
        await database.close()
    for each in applied:
        print(f"applied {each}")
    print("the database is up to date")
    return 0
