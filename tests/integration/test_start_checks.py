"""What a start looks at first: each thing that does not fit is one line that names it, and nothing is half-started."""

import base64

import pytest

from bridge.db.database import Database
from bridge.user_data.key_material import check_user_keys
from core.errors import ConfigurationError
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.processes import bridge_process
from tests.support.vaults import vault_of

KEY = base64.b64encode(bytes(32)).decode()
SEALED = """
insert into public.bridge_users (user_key, user_id) values (repeat('a', 64), 'somebody');
insert into public.bridge_grants (user_key, broker, environment, sealed, key_id, source)
values (repeat('a', 64), 'ctrader', 'demo', $1, 'k1', 'entered')
"""


async def refused(env: dict[str, str]) -> str:
    """The one line that a start ends with."""
    async with bridge_process("serve", env={"PORT": "0", **env}) as process:
        assert await process.ended(within_s=40) == 2
        assert len(process.stderr) == 1, process.output
        assert "Traceback" not in process.output
        return process.stderr[0]


async def seal_something(database: Database) -> None:
    for statement in SEALED.strip().split(";\n"):
        await database.execute(statement, *([vault_of("k1").seal(b"{}", about="x")] if "$1" in statement else []))


async def test_stored_credentials_without_any_key_stop_the_start(database: Database, database_url: str) -> None:
    await seal_something(database)
    line = await refused({"DATABASE_URL": database_url})
    assert line.startswith("configuration: TOKEN_ENCRYPTION_KEYS: ")
    assert "'k1'" in line


async def test_stored_credentials_of_an_unknown_key_stop_the_start(database: Database, database_url: str) -> None:
    await seal_something(database)
    line = await refused({"DATABASE_URL": database_url, "TOKEN_ENCRYPTION_KEYS": f"other:{KEY}"})
    assert line.startswith("configuration: TOKEN_ENCRYPTION_KEYS: ")
    assert KEY not in line


async def test_another_user_key_mode_stops_the_start(database: Database, database_url: str) -> None:
    await check_user_keys(database, UserKeyScheme())
    await database.execute("insert into public.bridge_users (user_key, user_id) values (repeat('a', 64), 'somebody')")
    with pytest.raises(ConfigurationError):
        await check_user_keys(database, UserKeyScheme(UserKeyMode.KEYED, Secret("s" * 32)))
    secret = "only-for-tests-0123456789-0123456789"
    line = await refused({"DATABASE_URL": database_url, "USER_KEY_MODE": "keyed", "USER_KEY_SECRET": secret})
    assert line.startswith("configuration: USER_KEY_MODE=keyed: wrong key material")
    assert secret not in line


async def test_a_database_that_no_longer_admits_this_version_stops_the_start(
    database: Database, database_url: str
) -> None:
    await database.execute(
        "insert into public.bridge_migrations (version, name, checksum, oldest) values (9999, 'later', 'x', 9999)"
    )
    line = await refused({"DATABASE_URL": database_url})
    assert line.startswith("configuration: ")
    assert "too old" in line


async def test_a_wrong_password_stops_the_start_at_once(database_url: str) -> None:
    wrong = database_url.replace("postgres:", "postgres:canary", 1).replace("postgres:canary//", "postgres://", 1)
    line = await refused({"DATABASE_URL": wrong})
    assert line.startswith("configuration: DATABASE_URL: ")
    assert "canary" not in line


async def test_missing_grants_stop_the_start(empty_database_url: str) -> None:
    admin = Database(Secret(empty_database_url))
    await admin.open()
    await admin.execute("create role lean login password 'lean-password'")
    await admin.close()
    lean = empty_database_url.replace(empty_database_url.partition("//")[2].partition("@")[0], "lean:lean-password")
    try:
        line = await refused({"DATABASE_URL": lean})
        assert line.startswith("configuration: ")
        assert "grant" in line.lower()
        assert "lean-password" not in line
    finally:
        await admin.open()
        await admin.execute("drop role lean")
        await admin.close()
