"""A user is told all that is stored of them, and erased from every place, also while somebody serves them."""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from bridge.cache.store import Refusal, StoreUnavailable, Write
from bridge.cache.stores.redis import RedisStore
from bridge.config import Settings
from bridge.db.database import Database
from bridge.user_data.command import run_erase, run_export
from bridge.user_data.whom import find_whom
from core.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from core.secret import Secret
from core.user_key import UserKeyMode
from tests.support.user_places import BROKER, BROKERS, SECRET, Places, plain
from tests.support.waiting import eventually

ANN, BOB = "ann@example.com", "Bob"
MODES = [UserKeyMode.SHA256, UserKeyMode.DUAL, UserKeyMode.KEYED]


@pytest.fixture
async def places(database: Database, database_url: str, redis_url: str) -> Places:
    return Places(database, database_url, redis_url)


async def export(places: Places, user: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert await run_export(places.settings(), places.stores(), BROKERS, user) == 0
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told, dict)
    return told


async def erase(places: Places, user: str, **more: Any) -> int:
    options = {"yes": True, "wait_s": 0.0, **more}
    return await run_erase(places.settings(), places.stores(), BROKERS, user, **options)


@pytest.mark.parametrize("mode", MODES)
async def test_export_tells_all_of_one_user_and_no_secret(
    places: Places, mode: UserKeyMode, capsys: pytest.CaptureFixture[str]
) -> None:
    places.mode = mode
    names = await places.settle(ANN)
    await places.settle(BOB)
    for name in (ANN, places.scheme.keys(ANN).canonical, plain(ANN), places.scheme.keys(ANN).canonical[:12]):
        told = await export(places, name, capsys)
        assert told["user"]["userId"] == ANN
        assert told["user"]["userKey"] == places.scheme.keys(ANN).canonical
        assert [row["account_id"] for row in told["sessions"]] == ["a1", "a2"]
        assert [row["account_id"] for row in told["defaultAccounts"]] == ["a1"]
        assert [row["broker"] for row in told["grants"]] == [BROKER]
        assert [row["step"] for row in told["consents"]] == ["started"]
        assert {row["action"] for row in told["audit"]} <= {"start", "export"}
        assert sorted(told["records"]) == ["kv", "postgres", "redis"]
        for held in told["records"].values():
            assert sorted(held) == sorted(names)
            assert held[names[0]]["balance"] == 12345.67
        text = json.dumps(told)
        assert "-access" not in text
        assert "-refresh" not in text
        assert BOB not in text
        assert plain(BOB) not in text
    assert await places.verify_audit() == 2 + 4


async def test_export_to_a_file_is_for_its_owner_only_and_overwrites_nothing(places: Places, tmp_path: Path) -> None:
    await places.settle(ANN)
    path = tmp_path / "ann.json"
    for number in range(2):
        work = run_export(places.settings(), places.stores(), BROKERS, ANN, output=str(path))
        if number:
            with pytest.raises(InvalidInput, match="exists"):
                await work
        else:
            assert await work == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["user"]["userId"] == ANN


@pytest.mark.parametrize("mode", MODES)
async def test_erasing_leaves_nothing_of_a_user_and_all_of_the_others(
    places: Places, mode: UserKeyMode, capsys: pytest.CaptureFixture[str]
) -> None:
    places.mode = mode
    names = await places.settle(ANN)
    others = await places.settle(BOB)
    before = await export(places, BOB, capsys)
    assert await erase(places, ANN) == 0
    assert "erased: " in capsys.readouterr().out
    everything = await places.dump()
    assert ANN not in everything
    for name in names:
        assert [each or b"" for each in await places.held(name)] == [b""] * 3
        assert everything.count(name) >= 1, "the fence that stays"
    keys = places.scheme.keys(ANN).all
    left = [line for line in everything.splitlines() if any(key in line for key in keys)]
    assert all(f"{BROKER}_account_" in line for line in left), "user keys stay in the names of fences only"
    after = await export(places, BOB, capsys)
    assert {**after, "exportedAt": 0, "audit": 0} == {**before, "exportedAt": 0, "audit": 0}
    for name in others:
        assert all(await places.held(name))
    rows = await places.database.fetch(
        "select action, subject::text, detail::text from public.bridge_audit order by seq"
    )
    assert [row["action"] for row in rows] == ["start", "start", "export", "erase", "export"]
    assert rows[3]["subject"] is None
    assert json.loads(rows[3]["detail"]) == {"records": 3 * len(names), "sessions": 2, "grants": 1}
    subjects = {row["subject"] for row in rows}
    assert len(subjects) == 3  # ann's, whom nothing names any more, bob's, and nobody's
    named = await places.database.fetch("select audit_id::text as id from public.bridge_users")
    assert {row["id"] for row in named} < subjects
    assert await places.verify_audit() == 5


async def test_erasing_without_fences_leaves_not_even_the_user_key(places: Places) -> None:
    names = await places.settle(ANN)
    assert await erase(places, ANN, forget_fences=True) == 0
    everything = await places.dump()
    assert plain(ANN) not in everything
    assert ANN not in everything
    for name in names:
        assert await places.held(name) == [None] * 3


async def test_erasing_may_be_repeated_and_finds_nothing(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    await places.settle(ANN)
    assert await erase(places, ANN) == 0
    capsys.readouterr()
    for name in (ANN, plain(ANN)):
        assert await erase(places, name) == 0
        assert "nothing was stored" in capsys.readouterr().out
    assert await places.verify_audit() == 2


async def test_nothing_is_erased_without_yes(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    names = await places.settle(ANN)
    before = await places.dump()
    assert await erase(places, ANN, yes=False) == 0
    assert "sessions: 2" in (said := capsys.readouterr().out)
    assert "--yes" in said
    assert await places.dump() == before
    assert all(await places.held(names[0]))


async def test_who_still_serves_the_user_is_refused_by_every_store(places: Places) -> None:
    names = await places.settle(ANN)
    fences = await places.write(names)  # a process claims them and goes on writing
    assert await erase(places, ANN) == 0
    for store in places.stores():
        await store.open()
        refused = await store.write(
            [Write(name, fence + 1, 99, b"{}") for name, fence in zip(names, fences, strict=True)]
        )
        assert [type(each) for each in refused] == [Refusal] * len(names), store.name
        await store.close()
    assert ANN not in await places.dump()
    for name in names:
        assert not any(await places.held(name))


async def test_the_command_waits_until_a_bridge_has_ended_the_sessions(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    await places.settle(ANN, running=True)
    assert await erase(places, ANN) == 1
    assert "no bridge has ended" in capsys.readouterr().out
    await places.settle(ANN, running=True)
    work = asyncio.create_task(erase(places, ANN, wait_s=30.0))
    stopped = "select count(*) from public.bridge_sessions where not wanted and owes_record"

    async def both_stopped() -> bool:
        return await places.database.fetch_value(stopped) == 2

    await eventually(both_stopped, within_s=20)
    assert not work.done()
    await places.database.execute("update public.bridge_sessions set owes_record = false")  # what a bridge does
    assert await asyncio.wait_for(work, 20) == 0
    assert ANN not in await places.dump()


async def test_nothing_is_changed_when_a_store_is_away(places: Places) -> None:
    await places.settle(ANN)
    before = await places.dump()
    away = RedisStore(Secret("redis://127.0.0.1:1/0"), timeout_s=0.3)
    with pytest.raises(StoreUnavailable):
        await run_erase(places.settings(), [*places.stores(), away], BROKERS, ANN, yes=True, wait_s=0)
    with pytest.raises(StoreUnavailable):
        await run_export(places.settings(), [*places.stores(), away], BROKERS, ANN)
    assert await places.dump() == before


async def test_records_are_found_without_a_database_when_the_user_is_named(
    redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = RedisStore(Secret(redis_url))
    name = f"{BROKER}_account_{plain(ANN)}"
    [fence] = await store.claim([name])
    await store.write([Write(name, fence, 1, b'{"a": 1}')])
    await store.close()
    settings = Settings(_env_file=None, redis_url=redis_url)  # type: ignore[call-arg, arg-type]
    assert await run_export(settings, [RedisStore(Secret(redis_url))], BROKERS, ANN) == 0
    assert json.loads(capsys.readouterr().out)["records"] == {"redis": {name: {"a": 1}}}
    assert await run_erase(settings, [RedisStore(Secret(redis_url))], BROKERS, ANN, yes=True) == 0
    assert await run_export(settings, [RedisStore(Secret(redis_url))], BROKERS, ANN) == 0
    assert '"redis": {}' in capsys.readouterr().out


async def test_a_name_means_one_user_or_is_refused(places: Places) -> None:
    tricky = plain("Bob")[:16]  # the id of one user, the key of another
    await places.settle(BOB)

    async def find(name: str) -> str | None:
        return (await find_whom(places.database, name, UserKeyMode.SHA256, Secret(SECRET))).user_id

    assert await find(f"  {BOB} ") == BOB
    assert await find(tricky) == BOB
    await places.settle(tricky)
    with pytest.raises(Conflict):
        await find(tricky)
    assert await find(plain(tricky)) == tricky
    with pytest.raises(NotFound):
        await find("0" * 12)
    with pytest.raises(InvalidInput):
        await find("\0")
    unknown = await find_whom(places.database, "new", UserKeyMode.KEYED, Secret(SECRET))
    assert (len(unknown.keys), unknown.keys[1], unknown.audit_id) == (2, plain("new"), None)
    assert "new" not in repr(unknown)


async def test_commands_refuse_to_write_without_the_keys_that_the_audit_log_is_sealed_with(places: Places) -> None:
    await places.settle(ANN)
    with pytest.raises(ConfigurationError, match="TOKEN_ENCRYPTION_KEYS"):
        await run_erase(places.settings(token_encryption_keys=()), places.stores(), BROKERS, ANN, yes=True)
