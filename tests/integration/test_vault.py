"""The vault on a real Postgres: what is stored, for whom it opens, what a stolen table shows, and who may read it."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from bridge.brokers.base import BrokerAccount, ConsentScope, Environment, IssuedTokens
from bridge.config_values import TokenKey
from bridge.credentials.file import CredentialsFile
from bridge.credentials.guarded import GuardedCredentials
from bridge.credentials.rotation import check_keys
from bridge.credentials.user_data import erase_grants, export_grants, rekey_grants
from bridge.credentials.vault import SealBroken, Vault
from bridge.credentials.vault_source import VaultCredentials
from bridge.db.database import Database
from bridge.db.users import rekey_user
from bridge.embedded.postgres import PostgresServer
from bridge.telemetry.redaction import REDACTOR
from core.errors import ConfigurationError, InvalidInput, Unavailable
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.vaults import (
    BROKER,
    TokenBroker,
    entry,
    sealing_key,
    token,
    vault_credentials,
    vault_of,
)

DEMO, LIVE = BrokerAccount("11", Environment.DEMO, "5001", "Sim"), BrokerAccount("12", Environment.LIVE)
ISSUED = IssuedTokens({"accessToken": Secret("issued-a"), "refreshToken": Secret("issued-r")}, 3600.0)


@pytest.fixture
async def vault(database: Database) -> AsyncIterator[VaultCredentials]:
    made = vault_credentials(database)
    yield made
    await made.close()


def key_of(user_id: str) -> str:
    return UserKeyScheme().keys(user_id).canonical


# ---------------------------------------------------------------- storing and reading


async def test_what_was_entered_is_handed_out_again_to_that_user_only(vault: VaultCredentials) -> None:
    assert await vault.get("ann", BROKER) is None
    stored = await vault.put_entered("ann", BROKER, entry(accountId="11"))
    found = await vault.get(" ann ", BROKER)
    assert found == stored
    assert (token(found), stored.account_id, stored.environment) == ("ann-access", "11", Environment.DEMO)
    assert stored.expires_at_ms is None
    assert "ann-access" not in repr(stored)
    assert await vault.get("bob", BROKER) is None
    assert await vault.get("ann", "elsewhere") is None


async def test_another_process_reads_it_when_it_was_stored_by_this_one(
    vault: VaultCredentials, database: Database
) -> None:
    stored = await vault.put_entered("ann", BROKER, entry())
    other = vault_credentials(database, owner="two")
    assert await other.get("ann", BROKER) == stored
    await other.close()


async def test_an_entry_is_checked_by_the_brokers_reader_before_anything_is_stored(vault: VaultCredentials) -> None:
    for wrong, field in (({"extra": 1}, "extra"), ({"accessToken": ""}, "accessToken"), ({"environment": "x"}, None)):
        with pytest.raises(InvalidInput) as refused:
            await vault.put_entered("ann", BROKER, entry(**wrong))
        assert field is None or refused.value.field == field
    with pytest.raises(InvalidInput) as refused:
        await vault.put_entered("ann", "nowhere", entry())
    assert refused.value.field == "broker"
    assert await vault.get("ann", BROKER) is None


async def test_the_grant_keeps_its_id_when_tokens_are_replaced(vault: VaultCredentials) -> None:
    first = await vault.put_entered("ann", BROKER, entry())
    again = await vault.put_entered("ann", BROKER, entry("new"))
    assert (again.grant_id, token(again)) == (first.grant_id, "new-access")
    assert token(await vault.get("ann", BROKER)) == "new-access"
    assert (await vault.put_entered("bob", BROKER, entry())).grant_id != first.grant_id


async def test_many_at_once_store_one_row(vault: VaultCredentials, database: Database) -> None:
    await asyncio.gather(*(vault.put_entered("ann", BROKER, entry(f"n{number}")) for number in range(8)))
    assert await database.fetch_value("select count(*) from public.bridge_grants") == 1
    assert token(await vault.get("ann", BROKER)).startswith("n")


async def test_removed_credentials_are_gone_and_stay_gone_when_asked_twice(
    vault: VaultCredentials, database: Database
) -> None:
    assert not await vault.remove("ann", BROKER)
    await vault.put_entered("ann", BROKER, entry())
    assert await vault.remove("ann", BROKER)
    assert not await vault.remove("ann", BROKER)
    assert await vault.get("ann", BROKER) is None
    assert await database.fetch_value("select count(*) from public.bridge_grants where sealed is not null") == 0
    assert token(await vault.put_entered("ann", BROKER, entry("back"))) == "back-access"


async def test_the_vault_wins_over_the_file_and_removal_does_not_bring_the_file_back(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps({"users": {"ann": {BROKER: entry("file")}}}))
    path.chmod(0o600)
    file = CredentialsFile(path, readers={BROKER: TokenBroker().read_credential})
    vault = vault_credentials(database, fallback=file)
    assert token(await vault.get("ann", BROKER)) == "file-access"
    assert not await vault.remove("ann", BROKER)
    stale = await vault.get("ann", BROKER)
    assert stale is not None
    renewed = await vault.refresh("ann", BROKER, stale, TokenBroker().refresh)
    assert token(renewed) == "access-1"
    await vault.put_entered("ann", BROKER, entry())
    assert token(await vault.get("ann", BROKER)) == "ann-access"
    assert token(await vault.refresh("ann", BROKER, renewed, TokenBroker().refresh)) == "ann-access"
    await vault.remove("ann", BROKER)
    assert await vault.get("ann", BROKER) is None
    await vault.close()


async def test_handed_out_secrets_are_known_to_the_log_filter(vault: VaultCredentials, database: Database) -> None:
    await vault.put_entered("ann", BROKER, entry("canary-put-0123456789"))
    row = await database.fetch_row("select user_key from public.bridge_grants")
    assert row is not None
    assert "canary-put" not in REDACTOR.redact("token canary-put-0123456789-access")
    other = vault_credentials(database, owner="two")
    guarded = GuardedCredentials(other)
    assert await guarded.get("ann", BROKER) is not None
    await guarded.close()


# ---------------------------------------------------------------- consents and accounts


async def test_issued_tokens_are_stored_with_their_end_and_scope(vault: VaultCredentials, database: Database) -> None:
    before_ms = await database.fetch_value("select (extract(epoch from clock_timestamp()) * 1000)::bigint")
    stored = await vault.put_issued("ann", BROKER, ISSUED, (DEMO,), ConsentScope.ACCOUNTS)
    assert token(stored) == "issued-a"
    assert stored.accounts == (DEMO,)
    assert stored.expires_at_ms is not None
    assert 0 <= stored.expires_at_ms - before_ms - 3_600_000 < 10_000
    assert await database.fetch_value("select scope from public.bridge_grants") == "accounts"
    again = await vault.put_issued("ann", BROKER, ISSUED, (), ConsentScope.TRADING)
    assert again.accounts == (DEMO,)  # the same tokens: a repeated store loses nothing
    assert await database.fetch_value("select version from public.bridge_grants") == 2


async def test_live_is_the_environment_of_a_consent_only_when_all_its_accounts_are(vault: VaultCredentials) -> None:
    assert (await vault.put_issued("ann", BROKER, ISSUED, (), ConsentScope.ACCOUNTS)).environment is Environment.DEMO
    await vault.put_accounts("ann", BROKER, (DEMO, LIVE))
    found = await vault.get("ann", BROKER)
    assert found is not None
    assert (found.environment, found.accounts) == (Environment.DEMO, (DEMO, LIVE))
    await vault.put_accounts("ann", BROKER, (LIVE,))
    found = await vault.get("ann", BROKER)
    assert found is not None
    assert found.environment is Environment.LIVE


async def test_a_chosen_account_stays_chosen_over_a_new_consent_until_it_is_left_out(vault: VaultCredentials) -> None:
    await vault.put_entered("ann", BROKER, entry(accountId="12", environment="live"))
    kept = await vault.put_issued("ann", BROKER, ISSUED, (), ConsentScope.ACCOUNTS)
    assert (kept.account_id, kept.environment) == ("12", Environment.LIVE)
    await vault.put_accounts("ann", BROKER, (DEMO, LIVE))
    found = await vault.get("ann", BROKER)
    assert found is not None
    assert (found.account_id, found.environment) == ("12", Environment.LIVE)
    await vault.put_accounts("ann", BROKER, (DEMO,))
    found = await vault.get("ann", BROKER)
    assert found is not None
    assert (found.account_id, found.environment) == (None, Environment.DEMO)


async def test_accounts_are_kept_with_the_tokens_they_were_listed_for(vault: VaultCredentials) -> None:
    await vault.put_accounts("ann", BROKER, (DEMO,))  # nothing is kept here: nothing happens
    assert await vault.accounts_as_of("ann", BROKER) is None
    await vault.put_entered("ann", BROKER, entry(environment="live"))
    await vault.put_accounts("ann", BROKER, (DEMO,))
    found = await vault.get("ann", BROKER)
    assert found is not None
    assert (found.accounts, found.environment) == ((DEMO,), Environment.LIVE)  # what the user entered stays
    assert await vault.accounts_as_of("ann", BROKER) is not None
    assert (await vault.put_entered("ann", BROKER, entry("other"))).accounts == ()
    assert await vault.accounts_as_of("ann", BROKER) is None


async def test_what_a_login_learnt_is_kept_only_with_the_tokens_it_learnt_it_from(vault: VaultCredentials) -> None:
    first = await vault.put_entered("ann", BROKER, entry(environment="live"))
    await vault.keep_accounts("bob", BROKER, first, (DEMO,))  # nothing is stored there: nothing happens
    await vault.keep_accounts("ann", BROKER, first, (DEMO,))
    kept = await vault.get("ann", BROKER)
    assert kept is not None
    assert (kept.accounts, kept.environment, kept.account_id) == ((DEMO,), Environment.LIVE, None)
    second = await vault.put_entered("ann", BROKER, entry("other"))
    await vault.keep_accounts("ann", BROKER, first, (DEMO,))
    assert (await vault.get("ann", BROKER)) == second
    assert second.accounts == ()


# ---------------------------------------------------------------- rows that are not what they should be


async def test_a_row_does_not_open_when_it_was_pasted_into_another_users(
    vault: VaultCredentials, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for user in ("ann", "bob"):
        await vault.put_entered(user, BROKER, entry(user))
    await database.execute(
        """update public.bridge_grants b set sealed = a.sealed, key_id = a.key_id from public.bridge_grants a
        where a.user_key = $1 and b.user_key = $2""",
        key_of("ann"),
        key_of("bob"),
    )
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InvalidInput) as refused:
        await vault.get("bob", BROKER)
    assert "ann" not in str(refused.value)
    assert token(await vault.get("ann", BROKER)) == "ann-access"
    assert "ann-access" not in caplog.text
    assert token(await vault.put_entered("bob", BROKER, entry("bob"))) == "bob-access"  # entering again helps


async def test_a_row_does_not_open_when_it_was_moved_to_another_broker_or_key(
    vault: VaultCredentials, database: Database
) -> None:
    await vault.put_entered("ann", BROKER, entry())
    await database.execute("update public.bridge_grants set broker = 'other'")
    with pytest.raises(InvalidInput):
        await vault.get("ann", "other")
    await database.execute("update public.bridge_grants set broker = $1, sealed = '\\x00'", BROKER)
    with pytest.raises(InvalidInput):
        await vault.get("ann", BROKER)


async def test_credentials_are_unavailable_when_their_key_is_not_configured(
    vault: VaultCredentials, database: Database
) -> None:
    await vault.put_entered("ann", BROKER, entry())
    other = vault_credentials(database, vault=vault_of("k2"))
    with pytest.raises(Unavailable):
        await other.get("ann", BROKER)
    await other.close()


async def test_nothing_is_said_to_be_missing_when_the_database_is_away(
    postgres_factory: Callable[[], PostgresServer],
) -> None:
    database = Database(Secret(postgres_factory().url()))
    vault = vault_credentials(database)
    with pytest.raises(Unavailable):  # not open
        await vault.get("ann", BROKER)
    await database.open()
    with pytest.raises(Exception, match="bridge_grants"):  # not migrated: said as it is
        await vault.get("ann", BROKER)
    await vault.close()
    await database.close()


# ---------------------------------------------------------------- keys at start


async def test_a_start_is_refused_when_a_key_is_missing_or_another_one(
    vault: VaultCredentials, database: Database
) -> None:
    await check_keys(database, vault_of("whatever"))  # nothing is stored
    old = vault_credentials(database, vault=vault_of("k0"))
    await old.put_entered("bob", BROKER, entry("bob"))
    await old.close()
    await vault.put_entered("ann", BROKER, entry())
    await check_keys(database, vault_of("k9", "k1", "k0"))
    with pytest.raises(ConfigurationError, match=r"'k0'.*not listed"):
        await check_keys(database, vault_of("k1"))
    with pytest.raises(ConfigurationError, match=r"'k1'.*not listed"):
        await check_keys(database, vault_of("k0"))
    impostor = Vault([sealing_key("k0"), TokenKey("k1", sealing_key("k9").key)])
    with pytest.raises(ConfigurationError, match=r"'k1'.*not the one"):
        await check_keys(database, impostor)
    await vault.remove("ann", BROKER)
    await check_keys(database, vault_of("k0"))


async def test_a_start_goes_on_when_single_rows_do_not_open(vault: VaultCredentials, database: Database) -> None:
    for user in ("ann", "bob", "eve"):
        await vault.put_entered(user, BROKER, entry(user))
    await database.execute(
        "update public.bridge_grants set sealed = set_byte(sealed, 20, 1) where user_key <> $1", key_of("eve")
    )
    await check_keys(database, vault_of("k1"))


# ---------------------------------------------------------------- who sees what


async def test_a_stolen_table_shows_no_secret_in_any_form(
    vault: VaultCredentials, database: Database, database_url: str
) -> None:
    canaries = ("canary+access/0123456789", "canary+refresh/987654321", "canary+issued/55555555")
    await vault.put_entered("ann@example.com", BROKER, entry(accessToken=canaries[0], refreshToken=canaries[1]))
    issued = IssuedTokens({"accessToken": Secret(canaries[2])})
    await vault.put_issued("bob@example.com", BROKER, issued, (DEMO,), ConsentScope.ACCOUNTS)
    rows = await database.fetch("select to_jsonb(g)::text as t, sealed from public.bridge_grants g")
    dump = "\n".join(row["t"] for row in rows).encode() + b"\n".join(row["sealed"] for row in rows)
    assert b"11" in dump
    for canary in canaries:
        raw = canary.encode()
        spellings = {raw, quote(canary, safe="").encode(), raw.hex().encode(), raw.hex().upper().encode()}
        for shift in range(3):  # base64 of a text that stands anywhere in a longer one
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                spellings.add(encode(b"\0" * shift + raw)[4:-4])
        for spelling in spellings:
            assert spelling not in dump
            assert spelling.hex().encode() not in dump
    assert b"example.com" not in dump


async def test_a_signed_in_user_reads_harmless_columns_of_their_own_rows_and_writes_none(
    vault: VaultCredentials, database: Database, database_url: str
) -> None:
    for user in ("ann", "bob", "gone"):
        await vault.put_entered(user, BROKER, entry(user))
    await vault.remove("gone", BROKER)
    connection = await asyncpg.connect(database_url)

    async def as_role(role: str, sql: str, user: str | None = None) -> list[Any]:
        async with connection.transaction():
            claims = json.dumps({"sub": user, "role": role} if user else {"role": role})
            await connection.execute("select set_config('request.jwt.claims', $1, true)", claims)
            await connection.execute(f"set local role {role}")
            rows: list[Any] = await connection.fetch(sql)
            return rows

    harmless = (
        "user_key, broker, environment, account_id, scope, accounts, accounts_at, expires_at, source, created_at,"
        " updated_at"
    )
    try:
        read = f"select {harmless} from public.bridge_grants"
        assert [row["user_key"] for row in await as_role("authenticated", read, "ann")] == [key_of("ann")]
        assert await as_role("authenticated", read, "gone") == []
        assert await as_role("authenticated", read) == []
        for secret in (
            *("sealed", "key_id", "id", "version", "refresh_owner", "refresh_until", "refresh_attempts", "refusal"),
            *("source_print", "*"),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await as_role("authenticated", f"select {secret} from public.bridge_grants", "ann")
        for role in ("authenticated", "anon"):
            for write in (
                "insert into public.bridge_grants (user_key, broker) values ('x', 'x')",
                "update public.bridge_grants set environment = 'live'",
                "delete from public.bridge_grants",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await as_role(role, write, "ann")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_role("anon", read)
        assert len(await as_role("service_role", "select * from public.bridge_grants")) == 3
    finally:
        await connection.close()


# ---------------------------------------------------------------- one user's data


async def test_an_export_tells_what_is_stored_and_no_secret(vault: VaultCredentials, database: Database) -> None:
    await vault.put_issued("ann", BROKER, ISSUED, (DEMO,), ConsentScope.ACCOUNTS)
    async with database.transaction() as connection:
        told = await export_grants(connection, key_of("ann"))
        assert await export_grants(connection, key_of("bob")) == []
    assert len(told) == 1
    assert (told[0]["broker"], told[0]["scope"], told[0]["removed"]) == (BROKER, "accounts", False)
    assert "issued" not in json.dumps(told)


async def test_erasing_takes_the_rows_of_that_user_only(vault: VaultCredentials, database: Database) -> None:
    for user in ("ann", "bob"):
        await vault.put_entered(user, BROKER, entry(user))
    async with database.transaction() as connection:
        assert await erase_grants(connection, key_of("ann")) == 1
        assert await erase_grants(connection, key_of("ann")) == 0
    assert await vault.get("ann", BROKER) is None
    assert await vault.get("bob", BROKER) is not None


@pytest.mark.parametrize("rows_first", [True, False])
async def test_grants_open_under_the_new_key_when_a_users_key_changes(
    vault: VaultCredentials, database: Database, rows_first: bool
) -> None:
    keyed = UserKeyScheme(UserKeyMode.KEYED, Secret("k" * 32))
    new_key = keyed.keys("ann").canonical
    stored = await vault.put_entered("ann", BROKER, entry())
    async with database.transaction() as connection:
        if rows_first:
            assert await rekey_user(connection, key_of("ann"), new_key)
        assert await rekey_grants(connection, vault_of(), key_of("ann"), new_key) == 1
        if not rows_first:
            assert await rekey_user(connection, key_of("ann"), new_key)
    moved = vault_credentials(database, user_keys=keyed)
    assert await moved.get("ann", BROKER) == stored
    await moved.close()
    assert await vault.get("ann", BROKER) is None


async def test_a_change_of_key_is_refused_whole_when_a_grant_does_not_open(
    vault: VaultCredentials, database: Database
) -> None:
    await vault.put_entered("ann", BROKER, entry())
    await database.execute("update public.bridge_grants set sealed = set_byte(sealed, 20, 1)")
    with pytest.raises(SealBroken, match=key_of("ann")[:12]):
        async with database.transaction() as connection:
            await rekey_grants(connection, vault_of(), key_of("ann"), "f" * 64)
