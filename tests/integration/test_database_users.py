"""The map of user ids and user keys on a real Postgres."""

import asyncio
import hashlib

import pytest

from bridge.db.database import Database
from bridge.db.users import UserKeyDiffers, ensure_user, find_user, forget_user, rekey_user, users_after
from core.errors import Conflict, InvalidInput
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme

PLAIN = UserKeyScheme()
KEYED = UserKeyScheme(UserKeyMode.KEYED, Secret("k" * 32))


def key_of(user_id: str, scheme: UserKeyScheme = PLAIN) -> str:
    return scheme.keys(user_id).canonical


async def store(database: Database, user_id: str, scheme: UserKeyScheme = PLAIN) -> None:
    async with database.transaction() as connection:
        await ensure_user(connection, key_of(user_id, scheme), user_id)


async def test_a_user_is_stored_once_when_many_ask_at_the_same_time(database: Database) -> None:
    await asyncio.gather(*(store(database, " Zoë@example.com ") for _ in range(12)))
    found = await find_user(database, key_of("Zoë@example.com"))
    assert found is not None
    assert found.user_id == "Zoë@example.com"
    assert await database.fetch_value("select count(*) from public.bridge_users") == 1


async def test_nobody_is_named_when_nothing_was_stored(database: Database) -> None:
    assert await find_user(database, key_of("nobody")) is None


async def test_another_key_of_a_known_user_is_refused_when_the_key_mode_was_changed(database: Database) -> None:
    await store(database, "ann")
    with pytest.raises(UserKeyDiffers, match="USER_KEY_MODE") as refused:
        await store(database, "ann", KEYED)
    assert "ann" not in str(refused.value).replace("another", "")
    assert await database.fetch_value("select user_key from public.bridge_users") == key_of("ann")


async def test_a_key_of_another_user_is_refused_when_it_is_taken(database: Database) -> None:
    await store(database, "ann")
    with pytest.raises(UserKeyDiffers):
        async with database.transaction() as connection:
            await ensure_user(connection, key_of("ann"), "bob")
    assert await database.fetch_value("select count(*) from public.bridge_users") == 1


async def test_what_is_no_key_is_refused_before_anything_is_asked(database: Database) -> None:
    async with database.transaction() as connection:
        with pytest.raises(InvalidInput):
            await ensure_user(connection, "ann", "ann")
    for wrong in ("", "abc", "z" * 64, key_of("ann")[:11], key_of("ann") + "0", "%" * 12):
        with pytest.raises(InvalidInput):
            await find_user(database, wrong)


async def test_a_user_is_found_by_either_key_when_keys_are_keyed(database: Database) -> None:
    await store(database, "ann", KEYED)
    for key in (key_of("ann", KEYED), key_of("ann", KEYED)[:12], key_of("ann"), key_of("ann")[:12]):
        found = await find_user(database, key)
        assert found is not None
        assert (found.user_key, found.user_id) == (key_of("ann", KEYED), "ann")


async def test_a_short_key_is_refused_when_several_users_begin_with_it(database: Database) -> None:
    beginning = "0123456789ab"
    for number in range(2):
        digits = beginning + hashlib.sha256(bytes([number])).hexdigest()[:52]
        await database.execute(
            "insert into public.bridge_users (user_key, user_id) values ($1, $2)", digits, str(number)
        )
    with pytest.raises(Conflict, match="more digits"):
        await find_user(database, beginning)


async def test_users_are_listed_in_pages_and_moved_and_forgotten(database: Database) -> None:
    names = [f"user-{number}" for number in range(7)]
    for name in names:
        await store(database, name)
    seen: list[str] = []
    while page := await users_after(database, seen[-1] if seen else "", limit=3):
        seen += [user.user_key for user in page]
    assert seen == sorted(map(key_of, names))
    old = await find_user(database, key_of("user-0"))
    async with database.transaction() as connection:
        assert await rekey_user(connection, key_of("user-0"), key_of("user-0", KEYED))
        assert not await rekey_user(connection, key_of("user-0"), key_of("user-0", KEYED))
        assert await forget_user(connection, key_of("user-1"))
        assert not await forget_user(connection, key_of("user-1"))
    new = await find_user(database, key_of("user-0", KEYED))
    assert old is not None
    assert new is not None
    assert (new.user_id, new.audit_id) == (old.user_id, old.audit_id)
    assert await find_user(database, key_of("user-1")) is None
