"""A Redis belongs to one deployment: two that are given the same one by mistake must not mix (faults.md C18)."""

import logging
from collections.abc import Callable

import pytest

from bridge.cache.store import StoreUnavailable, Write
from bridge.cache.stores.redis import RedisStore
from bridge.embedded.valkey import ValkeyServer
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support.fault_table import fault

WRITE = Write("a", 1, 1, b"{}")


@fault("C18", "another deployment's id in the server", "the start stops with one line")
async def test_the_start_stops_when_the_server_belongs_to_another_deployment(redis_url: str) -> None:
    ours = RedisStore(Secret(redis_url), deployment_id="one")
    theirs = RedisStore(Secret(redis_url), deployment_id="two")
    await ours.open()
    with pytest.raises(ConfigurationError, match=r"REDIS_URL: .*belongs to another deployment") as caught:
        await theirs.open()
    assert "\n" not in str(caught.value)
    assert await ours.write([WRITE]) == []
    for store in (ours, theirs):
        await store.close()


@fault("C18", "another deployment's server met after the start", "nothing is read or written; said once")
async def test_nothing_is_read_or_written_when_the_other_deployment_is_met_after_the_start(
    valkey_factory: Callable[[], ValkeyServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = valkey_factory()
    server.kill()
    late = RedisStore(Secret(server.url), deployment_id="two")
    await late.open()  # away: it starts all the same
    server.start()
    ours = RedisStore(Secret(server.url), deployment_id="one")
    await ours.open()
    await ours.claim(["a"])
    assert await ours.write([Write("a", 2**52, 1, b"{}")]) == []
    before = await ours.read(["a", "b"])
    with pytest.raises(StoreUnavailable, match="another deployment"):
        await late.forget(["a"])  # the first contact
    for _ in range(2):
        for call in (late.claim(["a"]), late.write([WRITE]), late.ping(), late.read(["a"]), late.delete(["a"])):
            with pytest.raises(StoreUnavailable, match="another deployment"):
                await call
    assert await ours.read(["a", "b"]) == before
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    for store in (ours, late):
        await store.close()


@fault("C04", "FLUSHALL takes the deployment's name, too", "the name is written again")
async def test_the_name_is_written_anew_when_the_server_lost_its_data(valkey: ValkeyServer, redis_url: str) -> None:
    store = RedisStore(Secret(redis_url), deployment_id="one")
    await store.open()
    first = store.generation
    assert valkey.command("FLUSHALL") == b"+OK"
    assert await store.write([WRITE]) == []
    assert store.generation != first
    assert valkey.command("EXISTS", "pulse:deployment") == b":1"
    await store.close()


async def test_a_server_given_free_is_taken_by_the_next_deployment(valkey: ValkeyServer, redis_url: str) -> None:
    store = RedisStore(Secret(redis_url), deployment_id="one")
    await store.open()
    assert valkey.command("DEL", "pulse:deployment")
    other = RedisStore(Secret(redis_url), deployment_id="two")
    await other.open()
    with pytest.raises(StoreUnavailable, match="another deployment"):
        await store.ping()
    valkey.command("SET", "pulse:deployment", "one")
    await store.ping()
    assert await store.read(["a"]) == [None]
    for each in (store, other):
        await each.close()


async def test_the_name_is_not_looked_at_when_there_is_no_database(redis_url: str) -> None:
    named = RedisStore(Secret(redis_url), deployment_id="one")
    await named.open()
    unnamed = RedisStore(Secret(redis_url))
    await unnamed.open()
    assert await unnamed.write([WRITE]) == []
    unnamed.deployment_id = "two"  # learnt later
    with pytest.raises(StoreUnavailable, match="another deployment"):
        await unnamed.write([WRITE])
    for each in (named, unnamed):
        await each.close()
