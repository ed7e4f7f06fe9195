"""One user's grants as a whole: told to them, erased, and moved to another user key. In the caller's transaction.

What is told holds no secret. Erasing takes the rows themselves, so nothing keeps an app's own settings row from being
taken over again when the user comes back.
"""

from __future__ import annotations

from bridge.credentials.grant_table import grants_of
from bridge.credentials.sealed import resealed
from bridge.credentials.vault import SealBroken, Vault
from bridge.db.database import Connection
from core.user_key import short_key

_ERASE = "delete from public.bridge_grants where user_key = $1 returning id"
_CONSENTS = """select broker, scope, step, return_to, created_at, expires_at from public.bridge_consents
where user_key = $1 order by created_at"""
_DROP_CONSENTS = "delete from public.bridge_consents where user_key = any($1::text[])"
_SEALED = """select id::text as id, broker, sealed from public.bridge_grants
where user_key = any($1::text[]) and sealed is not null order by id for update"""
_RESEAL = "update public.bridge_grants set sealed = $2, key_id = $3 where id = $1::uuid"


async def export_grants(connection: Connection, user_key: str) -> list[dict[str, object]]:
    """What is stored of the user's grants, in the names of the API; times in Unix ms; no secrets."""
    return [
        {
            "broker": each.broker,
            "environment": each.environment.value,
            "accountId": each.account_id,
            "scope": None if each.scope is None else each.scope.value,
            "source": each.source.value,
            "removed": each.sealed is None,
            "expiresAt": each.expires_at_ms,
            "accounts": [
                {
                    "accountId": account.account_id,
                    "environment": account.environment.value,
                    "login": account.login,
                    "brokerTitle": account.broker_title,
                }
                for account in each.accounts
            ],
            "accountsAsOf": each.accounts_at_ms,
            "createdAt": each.created_at_ms,
            "updatedAt": each.updated_at_ms,
        }
        for each in await grants_of(connection, user_key)
    ]


async def export_consents(connection: Connection, user_key: str) -> list[dict[str, object]]:
    """What is stored of the user's consents on their way, in the names of the API; times in Unix ms; no secrets."""
    return [
        {
            "broker": row["broker"],
            "scope": row["scope"],
            "step": row["step"],
            "returnTo": row["return_to"],
            "createdAt": round(row["created_at"].timestamp() * 1000),
            "expiresAt": round(row["expires_at"].timestamp() * 1000),
        }
        for row in await connection.fetch(_CONSENTS, user_key)
    ]


async def erase_grants(connection: Connection, user_key: str) -> int:
    """Delete the user's grants; how many there were."""
    return len(await connection.fetch(_ERASE, user_key))


async def rekey_grants(connection: Connection, vault: Vault, old_key: str, new_key: str) -> int:
    """Seal a user's grants for their new key; how many. Their rows follow `rekey_user` by themselves, which the caller
    calls in the same transaction, before or after.

    A consent on its way is dropped: its code is sealed for the old key, and the user begins anew.
    Raises SealBroken (naming the user by the first digits of the key) and UnknownKey; nothing may be committed then.
    """
    await connection.execute(_DROP_CONSENTS, [old_key, new_key])
    rows = await connection.fetch(_SEALED, [old_key, new_key])
    for row in rows:
        try:
            blob = resealed(vault, row["sealed"], row["broker"], old_key, new_key)
        except SealBroken as error:
            raise SealBroken(f"a grant of user {short_key(old_key)} at {row['broker']} does not open") from error
        await connection.execute(_RESEAL, row["id"], blob, vault.sealing_key_id)
    return len(rows)
