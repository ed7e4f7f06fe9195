"""`python -m bridge audit verify` and `audit tail`: is the log whole, and what happened last."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import orjson

from bridge.audit.chain import ChainBroken, ChainRow, Head, Sealer, Verifier
from bridge.audit.table import before_first, last_rows, pages
from bridge.config import Settings
from bridge.db.database import Database
from core.errors import ConfigurationError, InvalidInput

BROKEN = 1
BEFORE_ALL = -(2**63)  # nothing may stand before row 1
_PLACE = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


async def run_verify(settings: Settings, *, start: str | None = None, expect: str | None = None) -> int:
    """Read the whole log; 0 when it is whole, 1 with the first row that is not.

    `start`, `expect`: `<row>:<hash>` as printed earlier and kept elsewhere: begin behind that row, which may be gone;
    and see that the log still holds that one. Raises InvalidInput for another form, and what the database raises.
    """
    verifier = Verifier(
        Sealer(settings.token_encryption_keys),
        start=None if start is None else place(start),
        expected=[] if expect is None else [place(expect)],
    )
    database = _database(settings)
    await database.open()
    try:
        return await _verify(database, verifier)
    finally:
        await database.close()


async def _verify(database: Database, verifier: Verifier) -> int:
    try:
        await follow(database, verifier)
    except ChainBroken as error:
        print(f"BROKEN at row {error.seq}: {error}")
        print(f"rows before it that are well: {verifier.rows}")
        first = await before_first(database)
        if error.seq == 1 and first.seq and not verifier.rows:
            print(f"the first row that is there follows {first.seq}:{first.hash.hex()}: if older rows were removed on")
            print("purpose, compare that with what was kept of them and give it with --from")
        return BROKEN
    print(f"the audit log is whole: {verifier.rows} rows")
    print(f"sealed: {verifier.sealed}  without seal: {verifier.unsealed}  by a key not here: {verifier.unknown_key}")
    print(f"head: {verifier.head.seq}:{verifier.head.hash.hex()}  (keep it elsewhere; verify later with --expect)")
    return 0


async def follow(database: Database, verifier: Verifier) -> None:
    """Let `verifier` see every row and the head. Raises ChainBroken."""
    head: Head | None = None
    async for page in pages(database, after=verifier.head.seq or BEFORE_ALL):
        for row in page.rows:
            verifier.take(row)
        head = page.head
    if head is None:
        raise ChainBroken(verifier.head.seq + 1, "the log has no head, so its end may be gone")
    verifier.end(head)


async def run_tail(settings: Settings, *, limit: int = 20) -> int:
    """Print the last rows, one a line."""
    database = _database(settings)
    await database.open()
    try:
        for row in await last_rows(database, max(1, min(limit, 10_000))):
            print(line(row))
    finally:
        await database.close()
    return 0


def line(row: ChainRow) -> str:
    """A row as a person reads it."""
    entry = row.entry
    at = datetime.fromtimestamp(entry.at_us // 1_000_000, UTC).isoformat().removesuffix("+00:00")
    detail = " ".join(f"{name}={value}" for name, value in sorted(orjson.loads(entry.detail).items()))
    subject = "-" if entry.subject is None else entry.subject[:8]
    return f"{row.seq:>8}  {at}Z  {entry.action:<10} {entry.outcome:<20} {entry.actor:<16} {subject:<8}  {detail}"


def place(text: str) -> Head:
    """A row and its hash. Raises InvalidInput."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise InvalidInput("a place in the audit log is written <row>:<hash>, as `audit verify` prints it")
    return Head(int(match[1]), bytes.fromhex(match[2]))


def _database(settings: Settings) -> Database:
    if settings.database_url is None:
        raise ConfigurationError("DATABASE_URL: is not set, and the audit log is kept there")
    return Database(settings.database_url, size=1, name="pulse-bridge audit")
