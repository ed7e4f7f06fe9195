"""User keys: the right ones are insisted on, plain ones become keyed ones, and a stolen cache then names nobody."""

import asyncio
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Iterator

import asyncpg
import pytest

from bridge.config_values import TokenKey
from bridge.db.database import Database, DatabaseUnavailable
from bridge.db.locks import LockBusy, Locks
from bridge.db.users import find_user
from bridge.runtime.clock import SystemClock
from bridge.sessions.durable import DurableSessions
from bridge.user_data import key_migration
from bridge.user_data.key_command import run_finish_keys, run_migrate_keys
from bridge.user_data.key_material import check_user_keys, store_user_id_claim
from core.errors import ConfigurationError
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.processes import bridge_process
from tests.support.user_places import BROKER, BROKERS, SECRET, Places, plain, scheme_of
from tests.support.vaults import entry, token, vault_credentials

SHA256, KEYED, DUAL = UserKeyMode.SHA256, UserKeyMode.KEYED, UserKeyMode.DUAL
OTHER = UserKeyScheme(KEYED, Secret("another secret of the tests, 0123456789"))
USERS = [f"user-{number}@example.com" for number in range(7)]
ANN = USERS[0]


@pytest.fixture
async def places(database: Database, database_url: str, redis_url: str) -> Places:
    return Places(database, database_url, redis_url)


def keyed(user: str) -> str:
    return scheme_of(KEYED).keys(user).canonical


async def migrate(places: Places, mode: UserKeyMode = DUAL) -> int:
    return await run_migrate_keys(places.settings(mode), places.stores(), BROKERS)


async def finish(places: Places) -> int:
    return await run_finish_keys(places.settings(KEYED), places.stores(), BROKERS)


# ------------------------------------------------------------ are they the right ones


@pytest.mark.parametrize("mode", list(UserKeyMode))
async def test_a_database_without_users_takes_any_mode_and_keeps_to_it(places: Places, mode: UserKeyMode) -> None:
    for first in (SHA256, KEYED, mode):
        await check_user_keys(places.database, scheme_of(first))
    places.mode = mode
    await places.settle(ANN)
    await check_user_keys(places.database, scheme_of(mode))
    facts = dict(await places.database.fetch("select name, value from public.bridge_facts"))
    assert facts["user_key_mode"] == mode.value
    for other in UserKeyMode:
        if (other is SHA256) == (mode is SHA256):
            await check_user_keys(places.database, scheme_of(other))
            continue
        with pytest.raises(ConfigurationError, match=r"USER_KEY_MODE.*wrong key material") as refused:
            await check_user_keys(places.database, scheme_of(other))
        assert "\n" not in str(refused.value)
        assert ("user-keys migrate" in str(refused.value)) == (mode is SHA256)


async def test_another_secret_is_refused_in_one_line_that_names_the_setting(places: Places) -> None:
    places.mode = KEYED
    await check_user_keys(places.database, places.scheme)
    await places.settle(ANN)
    with pytest.raises(ConfigurationError, match=r"^USER_KEY_SECRET: wrong key material"):
        await check_user_keys(places.database, OTHER)
    await check_user_keys(places.database, places.scheme)


async def test_of_two_first_starts_with_different_secrets_the_stored_one_holds_as_soon_as_there_are_users(
    places: Places,
) -> None:
    schemes = [scheme_of(KEYED), OTHER]
    await asyncio.gather(*(check_user_keys(places.database, each) for each in schemes * 5))
    stored = dict(await places.database.fetch("select name, value from public.bridge_facts"))["user_key_check"]
    places.mode = KEYED
    await places.settle(ANN)
    outcomes = []
    for each in schemes:
        try:
            await check_user_keys(places.database, each)
            outcomes.append(True)
        except ConfigurationError:
            outcomes.append(False)
    assert sorted(outcomes) == [False, True]
    assert len(stored) == 64


@pytest.mark.parametrize("mode", [SHA256, DUAL, KEYED])
async def test_signed_in_users_read_their_own_records_only_in_every_mode(places: Places, mode: UserKeyMode) -> None:
    places.mode = mode
    for user in USERS[:2]:
        await places.settle(user)
    for store in places.stores()[:1]:
        await store.open()  # the primary: where my_account reads
        await store.close()
    await store_user_id_claim(places.database, "sub")
    await store_user_id_claim(places.database, "email")
    connection = await asyncpg.connect(places.url)
    try:
        for user in USERS[:2]:
            async with connection.transaction():
                await connection.execute("set local role authenticated")
                claims = f'{{"email": "{user}", "sub": "{USERS[2]}"}}'
                await connection.execute("select set_config('request.jwt.claims', $1, true)", claims)
                seen = {row["user_key"] for row in await connection.fetch("select user_key from public.account_cache")}
                assert seen == {places.scheme.keys(user).canonical}
                record = await connection.fetchval("select public.my_account($1)", BROKER)
                assert '"balance":12345.67' in record
    finally:
        await connection.close()


# ------------------------------------------------------------ the move


async def test_everything_of_every_user_moves_to_keyed_keys(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    names = {user: await places.settle(user) for user in USERS}
    subjects = {user: (await find_user(places.database, plain(user))).audit_id for user in USERS}  # type: ignore[union-attr]
    sessions = DurableSessions(places.database)
    before = {user: await sessions.export(plain(user)) for user in USERS}
    assert await migrate(places) == 0
    assert "users moved: 7 (of 7)" in capsys.readouterr().out
    places.mode = DUAL
    await check_user_keys(places.database, places.scheme)
    source = vault_credentials(places.database, user_keys=places.scheme)
    for user in USERS:
        found = await find_user(places.database, keyed(user))
        assert found is not None
        assert (found.user_key, found.user_id, found.audit_id) == (keyed(user), user, subjects[user])
        assert await sessions.export(keyed(user)) == before[user]
        assert await sessions.export(plain(user)) == {"sessions": [], "defaultAccounts": []}
        assert token(await source.get(user, BROKER)) == token_of(user)
        for name in names[user]:
            for document in await places.held(name.replace(plain(user), keyed(user))):
                assert document is not None
                assert b"12345.67" in document
            assert all(await places.held(name)), "readers of plain keys go on"
    await source.close()
    assert not await places.database.fetch("select from public.bridge_consents"), "their codes were sealed for old keys"
    assert await places.verify_audit() == 8


def token_of(user: str) -> str:
    return str(entry(user)["accessToken"])


async def test_a_move_may_be_repeated_and_leaves_newer_records_alone(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    names = await places.settle(ANN)
    assert await migrate(places) == 0
    new = names[0].replace(plain(ANN), keyed(ANN))
    await places.write([new])
    held = await places.held(new)
    capsys.readouterr()
    assert await migrate(places) == 0
    assert "users moved: 0 (of 1)" in capsys.readouterr().out
    assert await places.held(new) == held
    assert await places.verify_audit() == 2


async def test_a_move_cut_short_anywhere_goes_on_where_it_was(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails each batch and each copy once; between the failures no bridge may start."""
    for user in USERS:
        await places.settle(user)
    monkeypatch.setattr(key_migration, "BATCH", 2)
    failures = 0

    def cut(name: str, after: int) -> Callable[[], None]:
        real: Callable[..., Awaitable[object]] = getattr(key_migration, name)
        calls = 0

        async def breaks(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls > after:
                raise DatabaseUnavailable("cut")
            return await real(*arguments)

        monkeypatch.setattr(key_migration, name, breaks)
        return lambda: monkeypatch.setattr(key_migration, name, real)

    for name, after in [
        ("_move", 0),
        ("_move", 3),
        ("rekey_grants", 2),
        ("_copy", 0),
        ("_copy", 4),
        ("write_facts", 1),
    ]:
        restore = cut(name, after)
        with pytest.raises(DatabaseUnavailable):
            await migrate(places)
        restore()
        failures += 1
        for mode in UserKeyMode:
            with pytest.raises(ConfigurationError, match="user-keys migrate"):
                await check_user_keys(places.database, scheme_of(mode))
    assert failures == 6
    assert await migrate(places) == 0
    places.mode = DUAL
    await check_user_keys(places.database, places.scheme)
    source = vault_credentials(places.database, user_keys=places.scheme)
    for user in USERS:
        assert token(await source.get(user, BROKER)) == token_of(user)
        assert all(await places.held(f"{BROKER}_account_{keyed(user)}"))
    await source.close()


async def test_two_moves_at_once_end_as_one(places: Places) -> None:
    for user in USERS:
        await places.settle(user)
    outcomes = await asyncio.gather(migrate(places), migrate(places), return_exceptions=True)
    assert 0 in outcomes
    assert await migrate(places) == 0
    keys = {row["user_key"] for row in await places.database.fetch("select user_key from public.bridge_users")}
    assert keys == set(map(keyed, USERS))
    places.mode = DUAL
    source = vault_credentials(places.database, user_keys=places.scheme)
    for user in USERS:
        assert token(await source.get(user, BROKER)) == token_of(user)
    await source.close()


async def test_a_move_is_refused_with_what_is_missing(places: Places) -> None:
    await places.settle(ANN)
    with pytest.raises(ConfigurationError, match="USER_KEY_MODE"):
        await migrate(places, SHA256)
    with pytest.raises(ConfigurationError, match="USER_KEY_MODE: set it to keyed"):
        await run_finish_keys(places.settings(SHA256), places.stores(), BROKERS)  # plain ones are the only ones
    with pytest.raises(ConfigurationError, match="TOKEN_ENCRYPTION_KEYS"):
        await run_migrate_keys(places.settings(DUAL, token_encryption_keys=()), places.stores(), BROKERS)
    await check_user_keys(places.database, scheme_of(SHA256))  # nothing was begun
    assert await migrate(places) == 0
    wrong = {"user_key_secret": "another secret of the tests, 0123456789"}
    with pytest.raises(ConfigurationError, match="USER_KEY_SECRET: wrong key material"):
        await run_migrate_keys(places.settings(DUAL, **wrong), places.stores(), BROKERS)
    with pytest.raises(ConfigurationError, match="keyed and restart"):
        await run_finish_keys(places.settings(DUAL), places.stores(), BROKERS)
    assert isinstance(places.settings().token_encryption_keys[0], TokenKey)


async def test_finish_removes_all_that_is_under_plain_keys_and_nothing_else(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {user: await places.settle(user) for user in USERS}
    assert await migrate(places) == 0
    stray = f"{BROKER}_account_{plain(ANN)}_a9"  # of no session that is known
    foreign = f"{BROKER}_account_{plain('a stranger')}"
    await places.write([stray, foreign])
    assert await finish(places) == 0
    assert f"records removed under plain keys: {3 * (len(USERS) * 2 + 1)}" in capsys.readouterr().out
    caches = await places.dump(caches_only=True)
    for user in USERS:
        assert plain(user) not in caches
        for name in names[user]:
            assert all(await places.held(name.replace(plain(user), keyed(user))))
    assert all(await places.held(foreign))
    assert await finish(places) == 0


# ------------------------------------------------------------ the thief (faults.md S01)


def guesses(user_id: str) -> Iterator[str]:
    """Every digest that somebody without the secret may think of."""
    for form in {user_id, user_id.lower(), user_id.upper(), f" {user_id}", unicodedata.normalize("NFD", user_id)}:
        raw = form.encode()
        yield form
        for algorithm in ("sha256", "md5", "sha1"):
            yield hashlib.new(algorithm, raw).hexdigest()
        yield hmac.digest(b"", raw, "sha256").hex()


def named(dump: str, suspects: Iterable[str]) -> set[str]:
    """Whom of the suspects a dump names: by a digest in it, or by the id itself."""
    digests = {word[:length] for word in re.findall(r"[0-9a-f]{32,}", dump) for length in (32, 40, 64)}
    text = dump.lower()
    return {suspect for suspect in suspects if not digests.isdisjoint(guesses(suspect)) or suspect.lower() in text}


@pytest.fixture(scope="module")
def suspects() -> list[str]:
    """A hundred thousand addresses, those of the users among them."""
    return [*USERS, *(f"person{number}@mail{number % 97}.example.org" for number in range(100_000))]


@pytest.mark.slow
async def test_a_stolen_cache_names_nobody_when_keys_are_keyed(places: Places, suspects: list[str]) -> None:
    places.mode = KEYED
    for user in USERS:
        await places.settle(user)
    dump = await places.dump(caches_only=True)
    assert all(keyed(user) in dump for user in USERS)
    assert named(dump, suspects) == set()


async def test_a_stolen_cache_names_nobody_after_the_move_was_finished(places: Places) -> None:
    for user in USERS:
        await places.settle(user)
    assert named(await places.dump(caches_only=True), USERS) == set(USERS)
    assert await migrate(places) == 0
    assert named(await places.dump(caches_only=True), USERS) == set(USERS), "in the mode dual the plain copies still do"
    assert await finish(places) == 0
    assert named(await places.dump(caches_only=True), USERS) == set()


@pytest.mark.slow
async def test_a_stolen_cache_names_everybody_when_keys_are_plain(places: Places, suspects: list[str]) -> None:
    """What the documentation says of the mode sha256; and the thief is able."""
    for user in USERS:
        await places.settle(user)
    assert named(await places.dump(caches_only=True), suspects) == set(USERS)


# ------------------------------------------------------------ as an operator types it


async def run(places: Places, *words: str, mode: UserKeyMode, secret: str = SECRET) -> tuple[int, str]:
    """Exit code and output of `python -m bridge …`."""
    settings = places.settings()
    key = settings.token_encryption_keys[0]
    env = {
        "DATABASE_URL": places.url,
        "REDIS_URL": places.redis_url,
        "TOKEN_ENCRYPTION_KEYS": f"{key.id}:{key.key.reveal()}",
        "USER_KEY_MODE": mode.value,
        "USER_KEY_SECRET": secret,
        "PORT": "0",
    }
    async with bridge_process(*words, env=env) as process:
        code = await process.ended(within_s=60)
        return code, "\n".join([*process.stdout, *process.stderr])


async def test_the_way_from_plain_to_keyed_on_the_command_line(places: Places) -> None:
    await check_user_keys(places.database, scheme_of(SHA256))
    for user in USERS[:2]:
        await places.settle(user)
    code, said = await run(places, "serve", mode=DUAL)
    assert (code, said.count("\n")) == (2, 0), said
    assert "user-keys migrate" in said
    code, said = await run(places, "user-keys", "migrate", mode=DUAL)
    assert code == 0, said
    code, said = await run(places, "serve", mode=KEYED, secret="another secret of the tests, 0123456789")
    assert (code, said.count("\n")) == (2, 0), said
    assert "USER_KEY_SECRET: wrong key material" in said
    code, said = await run(places, "user-keys", "finish", mode=KEYED)
    assert code == 0, said
    code, said = await run(places, "user", "export", ANN, mode=KEYED)
    assert code == 0, said
    assert f'"userKey": "{keyed(ANN)}"' in said
    code, said = await run(places, "user", "erase", ANN, "--yes", mode=KEYED)
    assert code == 0, said
    code, said = await run(places, "audit", "verify", mode=KEYED)
    assert code == 0, said
    assert await find_user(places.database, keyed(ANN)) is None
    assert ANN not in await places.dump()


async def test_one_command_at_a_time_moves_user_keys(places: Places, database_url: str) -> None:
    other = Database(Secret(database_url))
    await other.open()
    async with Locks(other, SystemClock()).with_lock("user keys"):
        with pytest.raises(LockBusy):
            await migrate(places)
    assert await migrate(places) == 0
    await other.close()
