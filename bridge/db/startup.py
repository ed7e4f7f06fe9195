"""What is looked at before anything else is started: is the database there, do the clocks agree, is its schema ours.

Whatever is wrong is one line that says what to do (ConfigurationError). Must start nothing and keep nothing open.
"""

from __future__ import annotations

import asyncio

from bridge.db.database import Database, DatabaseUnavailable
from bridge.db.errors import DatabaseRefusesUs
from bridge.db.migrate import Migration, migrate
from bridge.runtime.clock import Clock
from core.errors import ConfigurationError

SKEW_MS = 30_000  # more than that, and tokens, leases and freshness mean something else on either side
WAIT_S = 15.0  # for a database that starts at the same time
PAUSE_S = 0.5


async def prepare_database(database: Database, clock: Clock, *, wait_s: float = WAIT_S) -> list[Migration]:
    """Reach an open database, compare the clocks and migrate; returns what was applied. Raises ConfigurationError."""
    try:
        await _reach(database, clock, wait_s)
        await check_clock(database, clock)
        return await migrate(database)
    except DatabaseUnavailable as error:
        raise ConfigurationError(f"DATABASE_URL: {error}") from error


async def check_clock(database: Database, clock: Clock) -> float:
    """How many seconds the database's clock is ahead of ours. Raises ConfigurationError for more than 30 either way."""
    before_ms = clock.now_ms()
    theirs_ms: int = await database.fetch_value("select floor(extract(epoch from clock_timestamp()) * 1000)::bigint")
    after_ms = clock.now_ms()
    nearest_ms = min(max(theirs_ms, before_ms), after_ms)  # while we waited, any of our times may have been theirs
    ahead_ms = theirs_ms - nearest_ms
    if abs(ahead_ms) > SKEW_MS:
        which = "ahead of" if ahead_ms > 0 else "behind"
        raise ConfigurationError(
            f"the database's clock is {abs(ahead_ms) / 1000:.0f} s {which} this machine's, and no more than"
            f" {SKEW_MS // 1000} s are admitted: let both be set by NTP"
        )
    return ahead_ms / 1000


async def _reach(database: Database, clock: Clock, wait_s: float) -> None:
    """Wait for the first answer; what waiting does not help with is raised at once."""
    deadline = clock.monotonic() + wait_s
    while True:
        try:
            await database.fetch_value("select 1")
            return
        except DatabaseRefusesUs:
            raise
        except DatabaseUnavailable:
            if clock.monotonic() + PAUSE_S > deadline:
                raise
        await asyncio.sleep(PAUSE_S)
