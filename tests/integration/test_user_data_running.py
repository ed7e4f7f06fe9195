"""Erasing a user whom a running bridge serves, and moving a bridge with live sessions to keyed user keys."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from bridge.cache.store import Store
from bridge.cache.stores.postgres import PostgresStore
from bridge.cache.stores.redis import RedisStore
from bridge.config import Settings
from bridge.db.database import Database
from bridge.user_data.command import run_erase
from bridge.user_data.key_command import run_finish_keys, run_migrate_keys
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.processes import bridge_process
from tests.support.user_places import SECRET, plain
from tests.support.waiting import eventually
from tests.support.world import World, running_world

BROKERS = ("ctrader",)
ANN = "user-1"
KEYED = UserKeyScheme(UserKeyMode.KEYED, Secret(SECRET))


def stores(world: World, database_url: str) -> list[Store]:
    return [PostgresStore(Database(Secret(database_url), size=2)), RedisStore(Secret(world.valkey.url))]


def settings_of(database_url: str, **more: Any) -> Settings:
    return Settings(_env_file=None, database_url=database_url, **more)  # type: ignore[arg-type]


async def documents(world: World, database_url: str, user_key: str) -> list[str]:
    """Every record under a user key, of both stores."""
    connection = await asyncpg.connect(database_url)
    try:
        found = await connection.fetch(
            "select document::text from public.account_cache where user_key = $1 and document is not null", user_key
        )
    finally:
        await connection.close()
    async with Redis.from_url(world.valkey.url) as client:
        names = await client.keys(f"ctrader_account_{user_key}*")
        return [*(row[0] for row in found), *[(await client.get(name)).decode() for name in names]]


async def sessions_of(world: World, user_key: str) -> list[dict[str, Any]]:
    answer = await world.api("GET", "/api/sessions")
    return [each for each in answer["sessions"] if each["userKey"] == user_key]


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_user_is_erased_while_the_bridge_serves_them_and_may_come_back(
    tmp_path: Path, database_url: str
) -> None:
    async with running_world(tmp_path, users=3, bridge_env={"DATABASE_URL": database_url}) as world:
        await world.start_all()
        await world.all_live(within_s=60)
        key = plain(ANN)

        async def written() -> bool:
            return len(await documents(world, database_url, key)) == 2

        await eventually(written, within_s=20, what="the record in both stores")
        assert await run_erase(settings_of(database_url), stores(world, database_url), BROKERS, ANN, yes=True) == 0
        assert all(each["status"] == "stopped" for each in await sessions_of(world, key))
        assert await documents(world, database_url, key) == []
        connection = await asyncpg.connect(database_url)
        try:
            assert await connection.fetch("select from public.bridge_users where user_id = $1", ANN) == []
            assert await connection.fetchval("select count(*) from public.bridge_users") == 2
        finally:
            await connection.close()
        assert await world.live() == 2, "the others do not notice"
        await world.start(ANN, environment="demo")  # comes back as somebody new, above the fence that stayed
        await world.all_live(within_s=40)
        await eventually(written, within_s=20, what="a new record in both stores")


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_sessions_come_back_under_keyed_keys_after_the_move(tmp_path: Path, database_url: str) -> None:
    async with running_world(tmp_path, users=3, bridge_env={"DATABASE_URL": database_url}) as world:
        await world.start_all()
        await world.all_live(within_s=60)
        assert await world.bridge.stop() == 0
        secret = {"user_key_secret": SECRET}
        dual = settings_of(database_url, user_key_mode="dual", **secret)
        assert await run_migrate_keys(dual, stores(world, database_url), BROKERS) == 0
        moved = await documents(world, database_url, KEYED.keys(ANN).canonical)
        assert len(moved) == 2, "a record before anybody is live again"
        for mode, copies in (("dual", 2), ("keyed", 0)):
            env = {**world.env, "USER_KEY_MODE": mode, "USER_KEY_SECRET": SECRET}
            async with bridge_process("serve", env=env) as world.bridge:
                await world.ready()
                await world.all_live(within_s=60)
                for user in world.users:
                    [session] = await sessions_of(world, KEYED.keys(user).canonical)
                    assert session["status"] == "live"
                if mode == "keyed":
                    keyed = settings_of(database_url, user_key_mode="keyed", **secret)
                    assert await run_finish_keys(keyed, stores(world, database_url), BROKERS) == 0

                async def both_forms(copies: int = copies) -> bool:
                    own = await documents(world, database_url, KEYED.keys(ANN).canonical)
                    plain_ones = await documents(world, database_url, plain(ANN))
                    said = [each for each in own if '"status":"live"' in each]
                    return len(said) == 2 and len(plain_ones) == copies

                await eventually(both_forms, within_s=20, what=f"records in the mode {mode}")
                for text in await documents(world, database_url, KEYED.keys(ANN).canonical):
                    assert ANN not in text
                    assert plain(ANN) not in text
                assert await world.bridge.stop() == 0
