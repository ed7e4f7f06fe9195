"""Keys of the vault over time on a real Postgres: everything opens before, during and after a rotation under load."""

import asyncio
import random

import pytest

from bridge.credentials.command import run_new_token_key, run_rotate_tokens
from bridge.credentials.rotation import Resealer, check_keys
from bridge.db.database import Database
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support.vaults import BROKER, TokenBroker, entry, sealing_key, token, vault_credentials, vault_of
from tests.support.waiting import eventually

USERS = [f"user-{number}" for number in range(60)]
OLD = "select count(*) from public.bridge_grants where key_id = 'old'"


async def fill(database: Database, *key_ids: str, users: list[str] = USERS) -> None:
    vault = vault_credentials(database, vault=vault_of(*key_ids))
    for user in users:
        await vault.put_entered(user, BROKER, entry(user))
    await vault.close()


async def test_nothing_fails_to_open_when_keys_are_rotated_under_load(database: Database) -> None:
    await fill(database, "old", users=USERS[:30])
    await fill(database, "new", "old", users=USERS[30:])  # half of the rows are old
    broker = TokenBroker()
    before = vault_credentials(database, broker, vault=vault_of("old", "new"), owner="before")  # seals as it always did
    after = vault_credentials(database, broker, vault=vault_of("new", "old"), owner="after")
    rng, stop, read, renewed = random.Random(5), asyncio.Event(), 0, 0

    async def load() -> None:
        nonlocal read, renewed
        while not stop.is_set():
            user, vault = rng.choice(USERS), rng.choice([before, after])
            credential = await vault.get(user, BROKER)
            assert credential is not None
            read += 1
            if rng.random() < 0.3:
                assert token(await vault.refresh(user, BROKER, credential, broker.refresh)).startswith("access-")
                renewed += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(load())
        resealer = Resealer(database, vault_of("new", "old"), batch=7)
        rounds = 0
        while rounds < 5 or read <= 20 or renewed <= 5:  # enough of a load, however slow the machine
            await resealer.run()
            rounds += 1
        stop.set()
    assert max(broker.requests.values()) == 1
    await before.close()
    done = await resealer.run()
    assert (done.changed, done.broken) == (0, 0)
    assert await database.fetch_value(OLD) == 0
    await check_keys(database, vault_of("new"))  # the old key is not needed any more
    last = vault_credentials(database, vault=vault_of("new"), owner="last")
    for user in USERS:
        assert await last.get(user, BROKER) is not None
    await last.close()
    await after.close()


async def test_a_pair_that_is_stored_between_reading_and_sealing_is_not_overwritten(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database, "old", users=["ann"])
    process = vault_credentials(database, vault=vault_of("old", "new"))
    fetch = database.fetch

    async def slow_fetch(sql: str, *arguments: object, **more: float) -> object:
        if sql.startswith("update"):
            await process.put_entered("ann", BROKER, entry("newer"))
        return await fetch(sql, *arguments, **more)

    monkeypatch.setattr(database, "fetch", slow_fetch)
    done = await Resealer(database, vault_of("new", "old")).run()
    assert (done.resealed, done.changed, done.broken) == (0, 1, 0)
    assert token(await process.get("ann", BROKER)) == "newer-access"
    await process.close()


async def test_rows_that_do_not_open_are_counted_and_keep_nothing_from_being_sealed(
    database: Database, database_url: str
) -> None:
    await fill(database, "old", users=["ann", "bob", "eve"])
    await database.execute(
        """update public.bridge_grants set sealed = set_byte(sealed, 20, 1)
        where id = (select min(id::text)::uuid from public.bridge_grants)"""
    )
    said: list[str] = []
    keys = [sealing_key("new"), sealing_key("old")]
    assert await run_rotate_tokens(Secret(database_url), keys, say=said.append) == 1
    assert said == ["sealed again with key new: 2", "do not open and were left as they are: 1"]
    assert await database.fetch_value(OLD) == 1


async def test_the_command_prints_counts_and_may_be_repeated(database: Database, database_url: str) -> None:
    await fill(database, "old", users=["ann", "bob"])
    keys = [sealing_key("new"), sealing_key("old")]
    said: list[str] = []
    assert await run_rotate_tokens(Secret(database_url), keys, say=said.append) == 0
    assert said[0] == "sealed again with key new: 2"
    assert await run_rotate_tokens(Secret(database_url), keys, say=said.append) == 0
    assert said[2] == "sealed again with key new: 0"
    assert not any(key.key.reveal() in line for key in keys for line in said)


async def test_the_command_is_refused_when_it_lacks_what_it_needs(database: Database, database_url: str) -> None:
    await fill(database, "old", users=["ann"])
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        await run_rotate_tokens(None, [sealing_key("new")])
    with pytest.raises(ConfigurationError, match="no key"):
        await run_rotate_tokens(Secret(database_url), [])
    with pytest.raises(ConfigurationError, match="'old'"):
        await run_rotate_tokens(Secret(database_url), [sealing_key("new")])


async def test_the_background_task_seals_by_itself_and_ends_when_closed(database: Database) -> None:
    await fill(database, "old", users=["ann", "bob"])
    resealer = Resealer(database, vault_of("new", "old"), batch=1)
    resealer.start(every_s=0.05, pause_s=0.0)

    async def sealed() -> bool:
        return bool(await database.fetch_value(OLD) == 0)

    await eventually(sealed, within_s=20)
    await fill(database, "old", "new", users=["eve"])  # a process of before still seals as it did
    await eventually(sealed, within_s=20)
    await resealer.close()
    await resealer.close()


def test_a_new_key_is_printed_as_an_entry() -> None:
    said: list[str] = []
    assert run_new_token_key("k9", say=said.append) == 0
    assert run_new_token_key(say=said.append) == 0
    assert said[0].startswith("k9:")
    assert len(said[0]) == len("k9:") + 44
    assert said[1].partition(":")[0] != "k9"
