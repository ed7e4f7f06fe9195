"""Taking over an app's existing settings rows, from a key-value table in the same database."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from bridge.brokers.base import BrokerFault, ConsentScope, Environment, IssuedTokens
from bridge.credentials.importing import KvTableRows
from bridge.credentials.user_data import erase_grants
from bridge.credentials.vault_source import VaultCredentials
from bridge.db.database import Database
from bridge.telemetry.audit import Action
from core.errors import InvalidInput, Unavailable
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.vaults import BROKER, TokenBroker, entry, token, vault_credentials

TABLE = "kv_store_ab12cd34"
KEYED = UserKeyScheme(UserKeyMode.KEYED, Secret("k" * 32))


class Imports:
    """The key-value table, a vault that looks at it, and the imports it tells the audit log of."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.broker = TokenBroker()
        self.imported: list[str] = []
        self.asked: list[str] = []
        self.vault = self.open()

    def open(self, *, user_keys: UserKeyScheme | None = None, owner: str = "one") -> VaultCredentials:
        return vault_credentials(
            self.database, self.broker, settings_rows=self, audit=self, user_keys=user_keys, owner=owner
        )

    async def get(self, key: str) -> Mapping[str, object] | None:
        self.asked.append(key)
        return await KvTableRows(self.database, TABLE).get(key)

    def record(self, action: Action, *, user_key: str | None, **_: Any) -> None:
        if action is Action.IMPORT:
            assert user_key is not None
            self.imported.append(user_key)

    async def write(self, user: str = "ann", **changes: Any) -> None:
        value = {
            "accessToken": f"{user}-row-access",
            "refreshToken": f"{user}-row-refresh",
            "accountId": 12,
            "isLive": False,
            **changes,
        }
        await self.write_raw(user, {name: each for name, each in value.items() if each != "absent"})

    async def write_raw(self, user: str, value: object, scheme: UserKeyScheme | None = None) -> None:
        key = f"{BROKER}_settings_{(scheme or UserKeyScheme()).keys(user).canonical}"
        await self.database.execute(
            f"insert into {TABLE} values ($1, $2::jsonb) on conflict (key) do update set value = excluded.value",
            key,
            json.dumps(value),
        )

    async def drop(self) -> None:
        await self.database.execute(f"delete from {TABLE}")

    async def token(self, user: str = "ann") -> str:
        return token(await self.vault.get(user, BROKER))


@pytest.fixture
async def imports(database: Database) -> AsyncIterator[Imports]:
    await database.execute(f"create table {TABLE} (key text primary key, value jsonb not null)")
    made = Imports(database)
    yield made
    await made.vault.close()


async def test_a_row_is_taken_over_once_when_the_user_is_first_asked_for(imports: Imports) -> None:
    await imports.write()
    await imports.write("bob", accountId="absent", isLive="absent", environment="live", theme="dark")
    found = await imports.vault.get("ann", BROKER)
    assert found is not None
    assert (token(found), found.account_id, found.environment) == ("ann-row-access", "12", Environment.DEMO)
    assert await imports.vault.get("ann", BROKER) == found
    assert len(imports.imported) == 1
    assert set(imports.asked) == {f"{BROKER}_settings_{hashlib.sha256(b'ann').hexdigest()}"}  # nobody else's
    bob = await imports.vault.get("bob", BROKER)
    assert bob is not None
    assert (bob.account_id, bob.environment) == (None, Environment.LIVE)
    assert await imports.vault.get("eve", BROKER) is None
    assert await imports.database.fetch_value("select count(*) from public.bridge_grants") == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"isLive": "absent"}, "settings.environment"),
        ({"isLive": True, "isDemo": True}, "settings.environment"),
        ({"accessToken": "absent"}, "settings.accessToken"),
        ({"accessToken": 5}, "settings.accessToken"),
        ({"accountId": "x"}, "settings.accountId"),
    ],
)
async def test_a_row_is_refused_by_field_when_it_does_not_say_enough(
    imports: Imports, changes: dict[str, Any], field: str
) -> None:
    await imports.write(**changes)
    for _ in range(2):
        with pytest.raises(InvalidInput) as refused:
            await imports.vault.get("ann", BROKER)
        assert refused.value.field == field
        assert "row-" not in str(refused.value)
    assert await imports.database.fetch_value("select count(*) from public.bridge_grants") == 0
    await imports.write()
    assert await imports.token() == "ann-row-access"


@pytest.mark.parametrize("value", [5, [], "text", True])
async def test_a_value_is_refused_when_it_is_no_object(imports: Imports, value: object) -> None:
    await imports.write_raw("ann", value)
    with pytest.raises(InvalidInput):
        await imports.vault.get("ann", BROKER)


async def test_the_vault_owns_the_tokens_afterwards_and_the_old_row_never_comes_back(imports: Imports) -> None:
    await imports.write()
    stale = await imports.vault.get("ann", BROKER)
    assert stale is not None
    renewed = await imports.vault.refresh("ann", BROKER, stale, imports.broker.refresh)
    assert token(renewed) == "access-1"
    for _ in range(2):
        assert await imports.token() == "access-1"
    await imports.write(theme="other")  # what the app keeps there for itself does not matter
    assert await imports.token() == "access-1"
    assert len(imports.imported) == 1


async def test_a_row_is_taken_over_again_when_its_tokens_were_changed_later(imports: Imports) -> None:
    await imports.write()
    stale = await imports.vault.get("ann", BROKER)
    assert stale is not None
    imports.broker.spent.add("ann-row-refresh")
    with pytest.raises(BrokerFault):
        await imports.vault.refresh("ann", BROKER, stale, imports.broker.refresh)
    await imports.write(accessToken="second", refreshToken="second-refresh", isLive=True)
    found = await imports.vault.get("ann", BROKER)
    assert found is not None
    assert (token(found), found.environment, found.grant_id) == ("second", Environment.LIVE, stale.grant_id)
    assert token(await imports.vault.refresh("ann", BROKER, stale, imports.broker.refresh)) == "second"
    assert token(await imports.vault.refresh("ann", BROKER, found, imports.broker.refresh)) == "access-2"
    assert len(imports.imported) == 2


async def test_another_account_in_the_row_is_followed_without_its_worn_out_tokens(imports: Imports) -> None:
    await imports.write()
    stale = await imports.vault.get("ann", BROKER)
    assert stale is not None
    await imports.vault.refresh("ann", BROKER, stale, imports.broker.refresh)
    await imports.write(accountId=13, isLive=True)
    found = await imports.vault.get("ann", BROKER)
    assert found is not None
    assert (token(found), found.account_id, found.environment) == (
        "access-1",
        "13",
        Environment.LIVE,
    )
    assert len(imports.imported) == 1


async def test_one_of_two_processes_takes_over_when_both_see_the_row_first(imports: Imports) -> None:
    await imports.write()
    others = [imports.open(owner=f"process-{number}") for number in range(4)]

    async def take_and_renew(vault: VaultCredentials) -> str:
        credential = await vault.get("ann", BROKER)
        assert credential is not None
        return token(await vault.refresh("ann", BROKER, credential, imports.broker.refresh))

    await asyncio.gather(*(take_and_renew(each) for each in others))
    assert len(imports.imported) == 1
    assert max(imports.broker.requests.values()) == 1
    for each in others:
        await each.close()


async def test_the_row_is_found_by_its_plain_key_when_keys_are_keyed(imports: Imports) -> None:
    await imports.write()
    await imports.write_raw("bob", {"accessToken": "k", "isDemo": True}, KEYED)
    keyed = imports.open(user_keys=KEYED)
    assert token(await keyed.get("ann", BROKER)) == "ann-row-access"
    assert token(await keyed.get("bob", BROKER)) == "k"
    assert imports.imported == [KEYED.keys("ann").canonical, KEYED.keys("bob").canonical]
    await keyed.close()


# ---------------------------------------------------------------- with what the vault has already


async def test_a_row_that_may_be_older_does_not_replace_what_the_user_entered(imports: Imports) -> None:
    await imports.write()
    await imports.vault.put_entered("ann", BROKER, entry())
    assert await imports.token() == "ann-access"
    issued = IssuedTokens({"accessToken": Secret("consented")})
    await imports.write("bob")
    await imports.vault.put_issued("bob", BROKER, issued, (), ConsentScope.ACCOUNTS)
    assert await imports.token("bob") == "consented"
    blind = vault_credentials(imports.database)  # stored by a process that saw no settings
    await blind.put_entered("eve", BROKER, entry("eve"))
    await imports.write("eve")
    assert await imports.token("eve") == "eve-access"
    assert await imports.token("eve") == "eve-access"
    assert imports.imported == []
    await blind.close()


async def test_a_row_that_is_written_later_replaces_what_the_user_entered(imports: Imports) -> None:
    await imports.vault.put_entered("ann", BROKER, entry())
    assert await imports.token() == "ann-access"
    await imports.write()
    assert await imports.token() == "ann-row-access"
    assert len(imports.imported) == 1


async def test_removed_credentials_come_back_by_a_new_row_only(imports: Imports) -> None:
    await imports.write()
    assert await imports.token() == "ann-row-access"
    assert await imports.vault.remove("ann", BROKER)
    assert await imports.vault.get("ann", BROKER) is None
    await imports.write(accountId=99)
    assert await imports.vault.get("ann", BROKER) is None
    await imports.write(accessToken="new")
    assert await imports.token() == "new"


async def test_erased_grants_leave_nothing_and_the_apps_own_row_is_taken_over_when_the_user_comes_back(
    imports: Imports,
) -> None:
    await imports.write()
    await imports.token()
    async with imports.database.transaction() as connection:
        assert await erase_grants(connection, UserKeyScheme().keys("ann").canonical) == 1
    assert await imports.database.fetch_value("select count(*) from public.bridge_grants") == 0
    assert await imports.token() == "ann-row-access"


async def test_what_the_vault_has_is_handed_out_when_settings_cannot_be_read(imports: Imports) -> None:
    await imports.write()
    assert await imports.token() == "ann-row-access"
    await imports.write(isLive="absent")  # broken since
    assert await imports.token() == "ann-row-access"
    await imports.database.execute(f"drop table {TABLE}")
    assert await imports.token() == "ann-row-access"
    with pytest.raises(Unavailable):  # not "none stored": nobody could look
        await imports.vault.get("bob", BROKER)
    await imports.vault.put_entered("bob", BROKER, entry("bob"))
    assert await imports.token("bob") == "bob-access"
