"""What `doctor` says of the database, of what is sealed in it, and of what else a start will need."""

import asyncio
import base64
from collections.abc import AsyncIterator
from random import Random
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiohttp import web

from bridge.audit.chain import Sealer
from bridge.audit.entries import make_entry
from bridge.audit.table import Pending, append
from bridge.cache.stores.memory import MemoryStore
from bridge.config import Settings
from bridge.credentials.vault import Vault
from bridge.db.database import Database
from bridge.doctor import Doctor
from bridge.doctor_database import database_findings
from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import ManualClock, SystemClock
from bridge.telemetry.audit import Action
from bridge.user_data.key_material import check_user_keys
from core.user_key import UserKeyScheme

KEY = "k1:" + base64.b64encode(b"x" * 32).decode()
OTHER_KEY = "k2:" + base64.b64encode(b"y" * 32).decode()


async def examine(url: str, **settings: Any) -> dict[str, tuple[bool | None, str]]:
    """Verdict and text of each finding, by what was looked at; whatever is not well says what to do."""
    findings = await database_findings(Settings(database_url=url, **settings), SystemClock())
    assert all(finding.advice for finding in findings if not finding.ok)
    return {finding.what: (finding.ok, f"{finding.detail}; {finding.advice}") for finding in findings}


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_database_that_is_well(database_url: str) -> None:
    found = await examine(database_url, token_encryption_keys=KEY)
    assert {what: ok for what, (ok, _) in found.items()} == {
        "database": True,
        "clock against the database": True,
        "schema": True,
        "rights": True,
        "token keys": True,
        "user keys": True,
    }


async def test_no_database_is_worth_knowing() -> None:
    findings = await database_findings(Settings(), SystemClock())
    assert [(finding.what, finding.ok) for finding in findings] == [("database", None)]


async def test_a_database_that_was_never_migrated(empty_database_url: str) -> None:
    found = await examine(empty_database_url)
    assert found["schema"][0] is None
    assert "0007_cache" in found["schema"][1]
    assert "token keys" not in found


async def test_a_database_of_a_later_version(database_url: str) -> None:
    row = "insert into public.bridge_migrations (version, name, checksum, oldest) values (9000, 'x', 'x', 9000)"
    await execute(database_url, row)
    assert (await examine(database_url))["schema"][0] is False


@pytest.mark.parametrize("broken", ["port", "database"])
async def test_a_database_that_cannot_be_used(database_url: str, unused_tcp_port: int, broken: str) -> None:
    parts = urlsplit(database_url)
    url = {
        "port": database_url.replace(f":{parts.port}", f":{unused_tcp_port}"),
        "database": database_url.replace(parts.path, "/canary_nowhere"),
    }[broken]
    found = await examine(url)
    assert list(found) == ["database"]
    assert found["database"][0] is False


async def test_a_database_that_does_not_answer(postgres_factory: Any) -> None:
    server: PostgresServer = postgres_factory()
    with server.paused():
        found = await examine(server.url())
    assert found["database"][0] is False


async def test_a_user_without_the_rights(database_url: str) -> None:
    parts = urlsplit(database_url)
    await execute(
        database_url,
        "drop role if exists weak",
        "create role weak login password 'weak'",
        "grant usage on schema public to weak",
        "grant select on public.bridge_migrations to weak",
    )
    weak = database_url.replace(f"{parts.username}:{parts.password}@", "weak:weak@")
    found = await examine(weak)
    assert found["rights"][0] is False
    assert "bridge_cache" in found["rights"][1]
    await execute(database_url, "grant service_role to weak", "alter role weak bypassrls")
    found = await examine(weak)
    assert found["rights"][0] is True, found
    await execute(database_url, "drop owned by weak", "drop role weak")


async def test_keys_that_do_not_open_what_is_stored(database: Database, database_url: str) -> None:
    user_key = "a" * 64
    sealed = Vault(Settings(database_url=database_url, token_encryption_keys=KEY).token_encryption_keys).seal(
        b"{}", about="x"
    )
    await database.execute("insert into public.bridge_users (user_key, user_id) values ($1, 'u')", user_key)
    await database.execute(
        "insert into public.bridge_grants (user_key, broker, sealed, key_id, environment, source)"
        " values ($1, 'sim', $2, 'k1', 'demo', 'entered')",
        user_key,
        sealed,
    )
    found = await examine(database_url)
    assert found["token keys"][0] is False
    found = await examine(database_url, token_encryption_keys=OTHER_KEY)
    assert found["token keys"][0] is False
    assert "'k1'" in found["token keys"][1]


async def test_a_sealed_audit_log_without_its_key(database: Database, database_url: str) -> None:
    sealer = Sealer(Settings(database_url=database_url, token_encryption_keys=KEY).token_encryption_keys)
    async with database.transaction() as connection:
        entry = make_entry(Random(1), 1, Action.START, "user", "ok", None)
        await append(connection, [Pending(entry)], sealer)
    assert (await examine(database_url))["token keys"][0] is False
    assert (await examine(database_url, token_encryption_keys=KEY))["token keys"][0] is True


async def test_user_keys_of_another_mode_or_secret(database: Database, database_url: str) -> None:
    keyed = {"user_key_mode": "keyed", "user_key_secret": "k" * 32}
    assert (await examine(database_url, **keyed))["user keys"][0] is True, "nobody has a key yet"
    await check_user_keys(database, UserKeyScheme())
    await database.execute("insert into public.bridge_users (user_key, user_id) values ($1, 'u')", "a" * 64)
    found = await examine(database_url, **keyed)
    assert found["user keys"][0] is False
    assert "user-keys migrate" in found["user keys"][1]
    assert (await examine(database_url))["user keys"][0] is True


async def test_clocks_that_are_apart(database_url: str) -> None:
    clock = ManualClock(now_ms=SystemClock().now_ms() - 40_000)
    findings = {each.what: each for each in await database_findings(Settings(database_url=database_url), clock)}
    assert findings["clock against the database"].ok is False
    clock = ManualClock(now_ms=SystemClock().now_ms() - 10_000)
    findings = {each.what: each for each in await database_findings(Settings(database_url=database_url), clock)}
    assert findings["clock against the database"].ok is None


# ------------------------------------------------------------ the rest


@pytest.fixture
async def web_url() -> AsyncIterator[str]:
    async def keys(request: web.Request) -> web.Response:
        return web.json_response({"keys": [{"kty": "EC"}]})

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>")

    app = web.Application()
    app.router.add_get("/auth/v1/.well-known/jwks.json", keys)
    app.router.add_get("/page", page)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def doctor(capsys: pytest.CaptureFixture[str], url: str, **settings: Any) -> dict[str, str]:
    """Marks by what was looked at. Brokers and the clock's server are on a port where nobody is."""
    here = {
        "ctrader_demo_url": "ws://127.0.0.1:1",
        "ctrader_live_url": "ws://127.0.0.1:1",
        "ctrader_token_url": f"{url}/page",
    }
    clock = SystemClock()
    async with asyncio.timeout(60):
        await Doctor(Settings(**here, **settings), [MemoryStore(clock)], clock).run()
    lines = capsys.readouterr().out.splitlines()
    return {line[5:].split(":")[0].split(" (")[0]: line[:4].strip() for line in lines if line[:1] not in (" ", "")}


async def test_what_user_tokens_need_is_tried(capsys: pytest.CaptureFixture[str], web_url: str) -> None:
    marks = await doctor(
        capsys, web_url, supabase_url=web_url, jwks_url=f"{web_url}/auth/v1/.well-known/jwks.json", api_keys=""
    )
    assert (marks["keys of user tokens"], marks["Supabase"]) == ("ok", "ok")
    marks = await doctor(capsys, web_url, supabase_url="http://127.0.0.1:1", jwks_url=f"{web_url}/page", api_keys="")
    assert (marks["keys of user tokens"], marks["Supabase"]) == ("FAIL", "FAIL")
    marks = await doctor(capsys, web_url, supabase_url=web_url)
    assert marks["user tokens"] == "?"


async def test_whether_anybody_is_told_is_said_and_nothing_is_sent(
    capsys: pytest.CaptureFixture[str], web_url: str
) -> None:
    marks = await doctor(capsys, web_url)
    assert (marks["ALERT_WEBHOOK_URL"], marks["HEARTBEAT_URL"]) == ("?", "?")
    marks = await doctor(
        capsys, web_url, alert_webhook_url="http://127.0.0.1:1/a", heartbeat_url="http://127.0.0.1:1/b"
    )
    assert (marks["ALERT_WEBHOOK_URL"], marks["HEARTBEAT_URL"]) == ("ok", "ok")
