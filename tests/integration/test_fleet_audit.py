"""The eye of the fleet drill: a session is served when its new owner has written, not when it has claimed."""

import time
from typing import Any

import asyncpg
import orjson

from tests.support.fleet_audit import Auditor

USER, FIRST, SECOND = "a" * 64, "1" * 12, "2" * 12
KEY = f"alpaca_account_{USER}"


async def own(connection: Any, owner: str) -> int:
    """Give the session to a process, as a claim does: its fence and its record's rise in one transaction."""
    async with connection.transaction():
        await connection.execute(
            "insert into public.bridge_processes (owner, version, capacity, expires_at)"
            " values ($1, 'x', 10, 'infinity') on conflict do nothing",
            owner,
        )
        fence: int = (await connection.fetchval("select public.bridge_cache_claim($1, 0)", [KEY]))[0]
        await connection.execute("update public.bridge_sessions set owner = $1, fence = $2", owner, fence)
    return fence


async def write(connection: Any, fence: int, version: int, status: str) -> None:
    document = orjson.dumps({"status": status, "staleAfter": int(time.time() * 1000) + 60_000}).decode()
    answer = await connection.fetchval(
        "select public.bridge_cache_write($1, $2, $3, $4)", [KEY], [fence], [version], [document]
    )
    assert orjson.loads(answer)["accepted"] == 1


async def test_a_session_is_served_when_its_new_owner_has_written_its_record(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        async with Auditor(database_url) as auditor:
            await connection.execute("insert into public.bridge_users (user_key, user_id) values ($1, 'x')", USER)
            await connection.execute(
                "insert into public.bridge_sessions (user_key, broker, environment, wanted)"
                " values ($1, 'alpaca', 'demo', true)",
                USER,
            )
            await write(connection, await own(connection, FIRST), 1, "live")
            assert await auditor.served() == {"alpaca": (1, 1)}
            assert await auditor.served(but=[FIRST]) == {"alpaca": (1, 0)}
            moment = await auditor.now()
            fence = await own(connection, SECOND)
            # the record is fresh, and says what its owner before wrote
            assert await auditor.served(but=[FIRST]) == {"alpaca": (1, 0)}
            assert await auditor.back_after(moment, [KEY]) == {}
            await write(connection, fence, 1, "live")
            assert await auditor.served(but=[FIRST]) == {"alpaca": (1, 1)}
            assert list(await auditor.back_after(moment, [KEY])) == [KEY]
    finally:
        await connection.close()
