"""What `doctor` finds out about the database and what is sealed in it. Reads only; every step has a deadline."""

from __future__ import annotations

import asyncio

from bridge.audit.chain import Sealer
from bridge.audit.table import check_sealer
from bridge.config import Settings
from bridge.credentials.rotation import check_keys
from bridge.credentials.vault import Vault
from bridge.db.database import Database
from bridge.db.migrate import check
from bridge.db.startup import SKEW_MS, check_clock
from bridge.findings import Finding
from bridge.runtime.clock import Clock
from bridge.user_data.key_material import look_at_user_keys
from core.errors import BridgeError, ConfigurationError
from core.user_key import UserKeyScheme

STEP_S = 10.0
_WHO = """
select current_user as me, current_setting('server_version') as version, pg_catalog.pg_is_in_recovery() as standby
"""
# The tables that the user of DATABASE_URL cannot work with: a grant is missing, or row-level security holds for it.
# The audit log is written by its functions alone.
_LACKING = """
select c.relname from pg_catalog.pg_class c
where c.relnamespace = 'public'::pg_catalog.regnamespace and c.relkind = 'r'
  and (starts_with(c.relname, 'bridge_') or c.relname in ('account_cache', $1))
  and (row_security_active(c.oid) or not has_table_privilege(c.oid, 'select')
       or not starts_with(c.relname, 'bridge_audit') and not (has_table_privilege(c.oid, 'insert')
       and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete')))
order by c.relname
"""


async def database_findings(settings: Settings, clock: Clock) -> list[Finding]:
    """Reachable, clock, schema, rights, keys: in this order, and no further than makes sense."""
    if settings.database_url is None:
        advice = "set DATABASE_URL so that sessions and users' credentials outlive the process"
        return [Finding("database", None, "not set", advice)]
    database = Database(settings.database_url, size=1, name="pulse-bridge doctor")
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(STEP_S):
            await database.open()
            await _examine(settings, database, clock, findings)
    except TimeoutError:
        findings.append(Finding("database", False, "no answer in time", "check its address and network, and its load"))
    except BridgeError as error:
        advice = "check DATABASE_URL (host, port, user, password, database) and that this machine may connect"
        findings.append(Finding("database", False, _without_name(error), advice))
    finally:
        await database.close()
    return findings


async def _examine(settings: Settings, database: Database, clock: Clock, findings: list[Finding]) -> None:
    """Appends as it goes on. Raises BridgeError when the database stops answering."""
    row = await database.fetch_row(_WHO)
    assert row is not None  # noqa: S101  a select without FROM has one row
    findings.append(
        Finding("database", False, "is a read-only standby", "give the address of the primary")
        if row["standby"]
        else Finding("database", True, f"Postgres {row['version']} answers")
    )
    findings.append(await _clock(database, clock))
    findings.append(schema := await _schema(database))
    rights = await _rights(settings, database, row["me"])
    if schema.ok is not None or not rights.ok:  # of tables that are not there nobody lacks a right
        findings.append(rights)
    if schema.ok:
        findings.append(await _keys(settings, database))
        findings.append(await _user_keys(settings, database))


async def _clock(database: Database, clock: Clock) -> Finding:
    what, advice = "clock against the database", "synchronise both machines' clocks (NTP)"
    try:
        ahead_s = await check_clock(database, clock)
    except ConfigurationError as error:
        return Finding(what, False, str(error), advice)
    if abs(ahead_s) <= 2:
        return Finding(what, True, "within 2 s")
    return Finding(what, None, f"{ahead_s:+.1f} s apart; the bridge starts up to {SKEW_MS // 1000} s", advice)


async def _schema(database: Database) -> Finding:
    try:
        lacking = await check(database)
    except ConfigurationError as error:
        return Finding("schema", False, str(error), "deploy the version of the bridge that fits, or restore the file")
    if lacking:
        advice = "run `python -m bridge migrate`; a start does it too"
        return Finding("schema", None, f"lacks {', '.join(map(str, lacking))}", advice)
    return Finding("schema", True, "up to date")


async def _rights(settings: Settings, database: Database, me: str) -> Finding:
    rows = await database.fetch(_LACKING, settings.supabase_kv_table or "kv_store_bridge")
    if not rows:
        return Finding("rights", True, "may work with every table")
    names = ", ".join(row["relname"] for row in rows)
    advice = f'as the owner of the tables run: grant service_role to "{me}"; alter role "{me}" bypassrls;'
    return Finding("rights", False, f"{me} cannot work with {names}", advice)


async def _keys(settings: Settings, database: Database) -> Finding:
    what, keys = "token keys", settings.token_encryption_keys
    try:
        await check_keys(database, Vault(keys) if keys else None)
        await check_sealer(database, Sealer(keys))
    except ConfigurationError as error:
        return Finding(what, False, _without_name(error), "add the key that is missing to TOKEN_ENCRYPTION_KEYS")
    if not keys:
        advice = "set TOKEN_ENCRYPTION_KEYS (python -m bridge keys new-token-key) so that users can connect brokers"
        return Finding(what, None, "not set, no credentials can be stored", advice)
    return Finding(what, True, f"{len(keys)} key(s); every stored credential has its key")


async def _user_keys(settings: Settings, database: Database) -> Finding:
    try:
        await look_at_user_keys(database, UserKeyScheme(settings.user_key_mode, settings.user_key_secret))
    except ConfigurationError as error:
        return Finding("user keys", False, str(error), "set USER_KEY_MODE and USER_KEY_SECRET as that says")
    return Finding("user keys", True, f"{settings.user_key_mode.value}, as in the database")


def _without_name(error: BridgeError) -> str:
    """The sentence without the variable that begins it."""
    return str(error).partition(": ")[2] if isinstance(error, ConfigurationError) else str(error)
